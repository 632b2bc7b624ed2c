"""One chat request, from its record to its one reply.

A reply is stored under its request before it is published, so that a redelivered request gets the
same reply again. A request whose deadline has passed gets an error reply, not a late answer.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime

import structlog

from config.metrics import Metrics
from config.settings import ChatSettings
from consumers.handlers.chat_backoff import with_backoff
from consumers.handlers.chat_outlet import ChatOutlet, encode_reply, refusal_of
from consumers.kafka.faults import describe_fault
from pipeline.chat.service import ChatService
from pipeline.chat.store import ChatStore, StoredReply
from schemas.envelope import Envelope, open_envelope
from schemas.errors import DeadlineExceeded, InternalError, RejectError, ReplyTopicRefused
from schemas.events import ChatReply, ChatRequest, read_event
from schemas.record import Record
from schemas.rpc import REPLY_TOPIC, ReplyTarget, reply_id, request_key
from schemas.topics import CHAT_REQUESTS

log = structlog.get_logger(__name__)


class PendingChat:
    """A request under way: what it asks, where its reply goes, and how much was streamed."""

    def __init__(
        self,
        envelope: Envelope,
        request: ChatRequest,
        target: ReplyTarget,
        key: str,
        *,
        asked: bool,
    ) -> None:
        """`key` identifies the request; `asked` says that it named its reply topic itself."""
        self.envelope = envelope
        self.request = request
        self.target = target
        self.asked = asked
        self.pieces = 0
        self.key = key


class RequestAnswerer:
    """Answers requests, or sets their records aside. Used on one event loop."""

    def __init__(
        self,
        *,
        store: ChatStore,
        service: ChatService,
        outlet: ChatOutlet,
        settings: ChatSettings,
        metrics: Metrics,
        clock: Callable[[], datetime],
        max_bytes: int,
    ) -> None:
        self._store = store
        self._service = service
        self._outlet = outlet
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._max_bytes = max_bytes
        self._free = asyncio.Semaphore(settings.concurrency)

    async def answer_or_set_aside(self, record: Record, received_at: float) -> str:
        """Deal with one record and return the outcome, as the metrics name it.

        `received_at` is in seconds of the monotonic clock.
        """
        try:
            return await self._settle(record, received_at)
        except RejectError as error:  # its reply: the topic refused it, or it is too large
            await self._outlet.set_aside(record, error)
            return "refused"
        except Exception as error:  # the handlers' edge: a bug must not stop the consumer
            log.error("chat.failed", fault=describe_fault(error))
            await self._outlet.set_aside(record, InternalError())
            return "failed"

    async def _settle(self, record: Record, received_at: float) -> str:
        try:
            pending = self._open(record)
        except RejectError as error:
            await self._outlet.set_aside(record, error)
            return "refused"
        stands = await self._find_reply(pending, record, received_at)
        reply = stands.reply
        # No deadline from here on: the reply may already be on its way, and must be the only one.
        sequence = pending.pieces if pending.request.stream else None
        await self._send(pending, reply, sequence, at=stands.at)
        return reply.error.code if reply.error else "answered"

    async def _find_reply(
        self, pending: PendingChat, record: Record, received_at: float
    ) -> StoredReply:
        """Return the stored reply: the answer, or the reason why there is none in time."""
        left_s = self._deadline(record, pending.request, received_at) - time.monotonic()
        try:
            if left_s <= 0:
                # After an outage most requests have expired, and the model is not asked. If a
                # reply was stored earlier, `_remember` returns that one.
                raise TimeoutError
            async with asyncio.timeout(left_s), self._free:
                return await self._remember(pending, await self._answer_with_backoff(pending))
        except TimeoutError:
            refused: RejectError = DeadlineExceeded()
        except ReplyTopicRefused:
            raise
        except RejectError as error:
            refused = error
        seconds = time.monotonic() - received_at
        refusal = refusal_of(pending.request.elder_id, refused, seconds)
        return await self._remember(pending, refusal)

    def _open(self, record: Record) -> PendingChat:
        envelope = open_envelope(record, CHAT_REQUESTS.name, self._max_bytes)
        request = read_event(envelope, ChatRequest)
        target = self._outlet.target(record)
        asked = record.header(REPLY_TOPIC) is not None
        key = request_key(envelope, record)
        return PendingChat(envelope, request, target, key, asked=asked)

    def _deadline(self, record: Record, request: ChatRequest, received_at: float) -> float:
        """Return the deadline in seconds of the monotonic clock.

        The time the record waited in Kafka counts only if the broker wrote its timestamp.
        """
        asked_ms = request.options.deadline_ms
        limit_s = asked_ms / 1000 if asked_ms else self._settings.deadline_s
        waited_s = 0.0
        if record.timestamp_type == "append":
            waited_s = max(self._clock().timestamp() - record.timestamp_ms / 1000, 0.0)
        return received_at + limit_s - waited_s

    async def _answer_with_backoff(self, pending: PendingChat) -> ChatReply:
        return await with_backoff(lambda: self._answer(pending), self._metrics)

    async def _answer(self, pending: PendingChat) -> ChatReply:
        known = await self._store.recall_reply(pending.key)
        if known is not None:
            return known.reply
        if pending.request.stream:
            reply = await self._stream(pending)
        else:
            reply = await self._service.answer(pending.request)
        self._count_tokens(reply)
        return reply

    async def _remember(self, pending: PendingChat, reply: ChatReply) -> StoredReply:
        """Store the reply, unless an earlier one is stored; return the one stored.

        Refusals are stored too, so that a redelivered request gets the same refusal again.
        """
        return await with_backoff(
            lambda: self._store.remember_reply(pending.key, reply), self._metrics
        )

    async def _stream(self, pending: PendingChat) -> ChatReply:
        """Send pieces, at most one in each `stream_interval_s`; return the whole reply."""
        begun = time.monotonic()
        sent_at, unsent, pending.pieces = begun, "", 0
        async for part in self._service.stream(pending.request):
            if isinstance(part, ChatReply):
                return part
            if not unsent and pending.pieces == 0:
                self._metrics.first_token.observe(time.monotonic() - begun)
            unsent += part
            if time.monotonic() - sent_at >= self._settings.stream_interval_s:
                piece = self._piece(pending, unsent)
                await self._send(pending, piece, pending.pieces, final=False)
                pending.pieces += 1
                sent_at, unsent = time.monotonic(), ""
        raise InternalError

    def _piece(self, pending: PendingChat, text: str) -> ChatReply:
        return ChatReply(elder_id=pending.request.elder_id, reply=text, model=None, duration_ms=0)

    async def _send(
        self,
        pending: PendingChat,
        reply: ChatReply,
        sequence: int | None = None,
        *,
        final: bool = True,
        at: datetime | None = None,
    ) -> None:
        part = None if final else sequence
        encoded = encode_reply(
            reply,
            reply_id(pending.envelope.id, pending.key, part),
            pending.envelope.traceparent,
            sequence=sequence,
            final=final,
            at=at,
        )
        await self._outlet.reply(pending.target, encoded, asked=pending.asked)

    def _count_tokens(self, reply: ChatReply) -> None:
        if reply.usage is not None:
            self._metrics.tokens.labels("prompt").observe(reply.usage.prompt_tokens)
            self._metrics.tokens.labels("completion").observe(reply.usage.completion_tokens)
