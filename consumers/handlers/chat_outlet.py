"""What leaves the chat role: replies to wherever was asked, and dead letters.

Each is published until the broker confirms it; what no broker will ever take goes another way.
"""

import asyncio
from datetime import datetime

import structlog

from config.metrics import Metrics
from consumers.kafka.backoff import backoff_s
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
from schemas.rpc import CORRELATION_ID, REPLY_TOPIC, ReplyTarget
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
        """Read where a request wants its reply; raises ReplyTopicRefused."""
        return self._replies.target(record, CHAT_REPLIES.name)

    async def reply(self, target: ReplyTarget, reply: Reply, *, asked: bool) -> None:
        """Publish a reply.

        Raises ReplyTopicRefused where the place was `asked` for and does not exist, and
        MessageTooLarge.
        """
        await self._publish(self._replies.publication(target, reply), asked=asked)

    async def set_aside(self, record: Record, error: RejectError) -> None:
        """Answer with the error where somebody waits for it; else a dead letter."""
        self._metrics.dead_letters.labels(CHAT_REQUESTS.name, error.code).inc()
        log.warning("chat.refused", position=record.position, code=error.code)
        asked = record.header(CORRELATION_ID) or record.header(REPLY_TOPIC)
        if asked and not isinstance(error, ReplyTopicRefused):
            refusal = encode_reply(refusal_of("", error), f"{record.position}/reply")
            try:
                await self.reply(self.target(record), refusal, asked=True)
                return
            except RejectError:
                pass  # Nobody can be answered there: it becomes a dead letter.
        try:
            await self._publish(dead_letter(record, self._group, error))
        except MessageTooLarge:
            log.warning("letter.emptied", position=record.position, bytes=record.size)
            await self._publish(empty_dead_letter(record, self._group, error), must=True)

    async def _publish(
        self, publication: Publication, *, asked: bool = False, must: bool = False
    ) -> None:
        """Publish until the broker confirms it: an answer is not lost to a broker's restart.

        What `must` get there waits for an operator where even that is too large.
        """
        attempt = 0
        while True:
            try:
                await asyncio.wrap_future(self._publisher.publish(publication))
                return
            except (RetryError, MessageTooLarge) as error:
                if asked and isinstance(error, NoSuchTopic):
                    raise ReplyTopicRefused(NO_SUCH_PLACE) from error
                if isinstance(error, MessageTooLarge) and not must:
                    raise
                attempt += 1
                await back_off(attempt, error, self._metrics)


async def back_off(attempt: int, error: ModelServerError, metrics: Metrics) -> None:
    """Wait before the next attempt, and say why: only an operator may be able to mend it."""
    wait_s = backoff_s(attempt)
    metrics.retries.labels(CHAT_REQUESTS.name, error.code).inc()
    log.warning("chat.waits", code=error.code, reason=error.message, wait_s=round(wait_s, 2))
    await asyncio.sleep(wait_s)


def refusal_of(elder_id: str, error: ModelServerError, seconds: float = 0.0) -> ChatReply:
    """Build the reply that tells of an error, after so many seconds."""
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
    """Write a reply as `chat-replies` carries it; `at` is when it was stored."""
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
