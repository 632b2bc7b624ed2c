"""An error reply or a dead letter: what a refused request gets."""

from producers.replies import Replies
from schemas.errors import MalformedRecord, RejectError, ReplyTopicRefused
from schemas.record import Record
from schemas.rpc import CORRELATION_ID, REPLY_TOPIC, ReplyTarget


def find_error_target(
    replies: Replies, record: Record, error: RejectError, topic: str, *, answers_unasked: bool
) -> ReplyTarget | None:
    """Return where the error reply to a refused record goes; None makes it a dead letter.

    A record asks for a reply by a correlation id or a reply topic. One that asks for none is
    answered only with `answers_unasked`, and then on the default reply topic `topic`; but what is
    no JSON at all becomes a dead letter. So does a record whose reply topic is refused.
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
