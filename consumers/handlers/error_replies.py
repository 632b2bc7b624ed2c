"""Decides whether a refused request gets an error reply or becomes a dead letter."""

from producers.replies import Replies
from schemas.errors import MalformedRecord, RejectError, ReplyTopicRefused
from schemas.record import Record
from schemas.rpc import CORRELATION_ID, REPLY_TOPIC, ReplyTarget


def find_error_target(
    replies: Replies, record: Record, error: RejectError, topic: str, *, answers_unasked: bool
) -> ReplyTarget | None:
    """Return where the error reply to a refused record goes; None makes it a dead letter.

    A record asks for a reply by a correlation id or a reply topic. With `answers_unasked`, a
    record that asks for none is answered too, on the default reply topic `topic`, unless it is not
    JSON. A record whose reply topic is refused always becomes a dead letter.
    """
    asked = record.header(CORRELATION_ID) or record.header(REPLY_TOPIC)
    if answers_unasked:
        is_expected = asked is not None or not isinstance(error, MalformedRecord)
    else:
        is_expected = bool(asked)
    if not is_expected or isinstance(error, ReplyTopicRefused):
        return None
    try:
        return replies.target(record, topic)
    except ReplyTopicRefused:
        return None
