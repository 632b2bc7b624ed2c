"""What the chat role publishes: replies, to the topics that requests name, and dead letters.

Each is retried until the broker confirms it. If the broker will never accept a reply, the request
becomes a dead letter.
"""

import asyncio
from datetime import datetime

import structlog

from config.metrics import Metrics
from consumers.handlers.chat_backoff import with_backoff
from consumers.handlers.error_replies import find_error_target
from producers.dead_letters import dead_letter, empty_dead_letter
from producers.publisher import Publication, Publisher
from producers.replies import NO_SUCH_PLACE, Replies, Reply, error_header
from schemas.errors import (
    MessageTooLarge,
    ModelServerError,
    NoSuchTopic,
    RejectError,
    ReplyTopicRefused,
    RetryError,
)
from schemas.events import ChatReply, ErrorBody
from schemas.record import Record
from schemas.rpc import ReplyTarget
from schemas.topics import CHAT_REPLIES, CHAT_REQUESTS

log = structlog.get_logger(__name__)


class ChatOutlet:
    """Publishes for the chat role, from its event loop."""

    def __init__(
        self, publisher: Publisher, replies: Replies, metrics: Metrics, group: str
    ) -> None:
        self._publisher = publisher
        self._replies = replies
        self._metrics = metrics
        self._group = group

    def target(self, record: Record) -> ReplyTarget:
        """Return where a request wants its reply; raises ReplyTopicRefused."""
        return self._replies.target(record, CHAT_REPLIES.name)

    async def reply(self, target: ReplyTarget, reply: Reply, *, asked: bool) -> None:
        """Publish a reply.

        Raises MessageTooLarge, and ReplyTopicRefused if the request `asked` for this topic and the
        topic does not exist.
        """
        await self._publish(self._replies.publication(target, reply), asked=asked)

    async def set_aside(self, record: Record, error: RejectError) -> None:
        """Publish the error reply if somebody waits for it; otherwise a dead letter."""
        self._metrics.dead_letters.labels(CHAT_REQUESTS.name, error.code).inc()
        log.warning("chat.refused", position=record.position, code=error.code)
        target = find_error_target(
            self._replies, record, error, CHAT_REPLIES.name, answers_unasked=False
        )
        if target is not None:
            refusal = encode_reply(refusal_of("", error), f"{record.position}/reply")
            try:
                await self.reply(target, refusal, asked=True)
                return
            except RejectError:
                pass  # The broker will never accept it there, so the record becomes a dead letter.
        try:
            await self._publish(dead_letter(record, self._group, error))
        except MessageTooLarge:
            log.warning("letter.emptied", position=record.position, bytes=record.size)
            emptied = empty_dead_letter(record, self._group, error)
            await self._publish(emptied, retries_too_large=True)

    async def _publish(
        self, publication: Publication, *, asked: bool = False, retries_too_large: bool = False
    ) -> None:
        """Publish until the broker confirms it: no reply is lost to a broker's restart.

        With `retries_too_large`, an event over the topic's size limit is retried too, until an
        operator raises the limit.
        """

        async def publish() -> None:
            try:
                await asyncio.wrap_future(self._publisher.publish(publication))
            except NoSuchTopic as error:
                if asked:
                    raise ReplyTopicRefused(NO_SUCH_PLACE) from error
                raise

        retried = (RetryError, MessageTooLarge) if retries_too_large else (RetryError,)
        await with_backoff(publish, self._metrics, retried)


def refusal_of(elder_id: str, error: ModelServerError, seconds: float = 0.0) -> ChatReply:
    """Build the reply that reports an error; `seconds` is how long the request took."""
    return ChatReply(
        elder_id=elder_id,
        reply="",
        model=None,
        duration_ms=round(seconds * 1000),
        error=ErrorBody(code=error.code, message=error.message),
    )


def encode_reply(
    reply: ChatReply,
    event_id: str,
    traceparent: str | None = None,
    *,
    sequence: int | None = None,
    final: bool = True,
    at: datetime | None = None,
) -> Reply:
    """Encode a reply for `chat-replies`; `at` is when it was stored, and by default now."""
    error = reply.error
    return Reply(
        topic=CHAT_REPLIES.name,
        event_id=event_id[:512],
        data=reply.model_dump(mode="json"),
        error=error_header(error.code, error.message) if error else None,
        final=final,
        sequence=sequence,
        traceparent=traceparent,
        at=at,
    )
