"""`chat-requests`: many questions at once on one event loop, each answered once.

A reply is remembered under its request before it is published, so a redelivered request gets
the same reply again. A request whose deadline has passed is told so, not answered late.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime

import structlog

from config.metrics import Metrics
from config.settings import ChatSettings
from consumers.handlers.chat_outlet import ChatOutlet, back_off, encode_reply, refusal_of
from consumers.kafka.backoff import backoff_s
from consumers.kafka.faults import describe_fault
from consumers.kafka.lanes import Done, Work
from pipeline.chat.service import ChatService
from pipeline.chat.store import ChatStore, StoredReply
from producers.publisher import Publisher
from producers.replies import Replies
from schemas.envelope import Envelope, open_envelope
from schemas.errors import (
    DeadlineExceeded,
    InternalError,
    RejectError,
    ReplyTopicRefused,
    RetryError,
)
from schemas.events import ChatReply, ChatRequest, read_event
from schemas.record import Record
from schemas.rpc import REPLY_TOPIC, ReplyTarget, reply_id, request_key
from schemas.topics import CHAT_REQUESTS

log = structlog.get_logger(__name__)


class Conversation:
    """One request on its way: what was asked, and where the reply goes."""

    def __init__(
        self,
        envelope: Envelope,
        request: ChatRequest,
        target: ReplyTarget,
        key: str,
        *,
        asked: bool,
    ) -> None:
        """`key` names the request, and `asked` says that it named where the reply goes."""
        self.envelope = envelope
        self.request = request
        self.target = target
        self.asked = asked
        self.pieces = 0
        self.key = key


class ChatExecutor:
    """Answers chat requests on an event loop in a thread of its own."""

    def __init__(
        self,
        make_store: Callable[[], ChatStore],
        make_service: Callable[[ChatStore], ChatService],
        publisher: Publisher,
        replies: Replies,
        settings: ChatSettings,
        metrics: Metrics,
        group: str,
        clock: Callable[[], datetime],
        *,
        max_bytes: int,
    ) -> None:
        """The clients are made inside the event loop that will use them."""
        self._make_store = make_store
        self._make_service = make_service
        self._settings = settings
        self._metrics = metrics
        self._outlet = ChatOutlet(publisher, replies, metrics, group)
        self._clock = clock
        self._max_bytes = max_bytes
        self._loop = asyncio.new_event_loop()
        self._opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, name="chat", daemon=True)
        self._done: Done = lambda ticket: None
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    # The executor's side, called from the poll thread ------------------------------------------

    @property
    def threads(self) -> list[threading.Thread]:
        """The event loop's."""
        return [self._thread]

    def start(self, done: Done) -> None:
        """Start the event loop; raises what the clients cannot be made for."""
        self._done = done
        self._thread.start()
        self._opened.result()

    def submit(self, work: Work) -> None:
        """Begin to answer a request."""
        self._loop.call_soon_threadsafe(self._begin, work)

    def stop(self, limit_s: float) -> bool:
        """Let the answers under way be finished within the limit."""
        ended = asyncio.run_coroutine_threadsafe(self._drain(limit_s), self._loop)
        finished = ended.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        return finished

    # The event loop's side ----------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._open())
        except Exception as error:  # the thread's edge: whoever waits for the start is told
            self._opened.set_exception(error)
        else:
            self._opened.set_result(None)
            self._loop.run_forever()
        self._loop.close()

    async def _open(self) -> None:
        self._store = self._make_store()
        self._service = self._make_service(self._store)
        self._free = asyncio.Semaphore(self._settings.concurrency)

    def _begin(self, work: Work) -> None:
        if self._draining:
            return  # Left for the next owner of the partition.
        task = self._loop.create_task(self._deal_with(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self, limit_s: float) -> bool:
        self._draining = True
        pending: set[asyncio.Task[None]] = set(self._tasks)
        if pending:
            _, pending = await asyncio.wait(pending, timeout=limit_s)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await self._service.close()
        self._store.close()
        return not pending

    async def _deal_with(self, work: Work) -> None:
        attempt = 0
        while True:
            try:
                outcome = await self._answer_or_set_aside(work.record, work.received_at)
                break
            except Exception as error:  # the task's edge: nobody fetches what a task raises
                attempt += 1
                place, wait_s = work.record.position, backoff_s(attempt)
                log.error("chat.fault", position=place, fault=describe_fault(error), wait_s=wait_s)
                await asyncio.sleep(wait_s)
        self._metrics.consumed.labels(CHAT_REQUESTS.name, outcome).inc()
        seconds = time.monotonic() - work.received_at
        self._metrics.chat_seconds.labels(outcome).observe(seconds)
        self._done(work.ticket)

    async def _answer_or_set_aside(self, record: Record, received_at: float) -> str:
        try:
            return await self._settle(record, received_at)
        except RejectError as error:  # its reply: no place for it, or larger than the place takes
            await self._outlet.set_aside(record, error)
            return "refused"
        except Exception as error:  # the handlers' edge: a bug must not stop the consumer
            log.error("chat.failed", fault=describe_fault(error))
            await self._outlet.set_aside(record, InternalError())
            return "failed"

    async def _settle(self, record: Record, received_at: float) -> str:
        try:
            conversation = self._open_conversation(record)
        except RejectError as error:
            await self._outlet.set_aside(record, error)
            return "refused"
        stands = await self._find_reply(conversation, record, received_at)
        reply = stands.reply
        # Here no deadline counts: what is on its way must not be followed by another reply.
        sequence = conversation.pieces if conversation.request.stream else None
        await self._send(conversation, reply, sequence, at=stands.at)
        return reply.error.code if reply.error else "answered"

    async def _find_reply(
        self, conversation: Conversation, record: Record, received_at: float
    ) -> StoredReply:
        """Answer within the deadline, or say why not; what is returned is remembered."""
        left_s = self._deadline(record, conversation.request, received_at) - time.monotonic()
        try:
            if left_s <= 0:
                # After an outage most have expired: nobody is asked about those. What may have
                # been answered before stands all the same, as `_remember` finds.
                raise TimeoutError
            async with asyncio.timeout(left_s), self._free:
                return await self._remember(conversation, await self._answer(conversation))
        except TimeoutError:
            refused: RejectError = DeadlineExceeded()
        except ReplyTopicRefused:
            raise
        except RejectError as error:
            refused = error
        seconds = time.monotonic() - received_at
        refusal = refusal_of(conversation.request.elder_id, refused, seconds)
        return await self._remember(conversation, refusal)

    def _open_conversation(self, record: Record) -> Conversation:
        envelope = open_envelope(record, CHAT_REQUESTS.name, self._max_bytes)
        request = read_event(envelope, ChatRequest)
        target = self._outlet.target(record)
        asked = record.header(REPLY_TOPIC) is not None
        key = request_key(envelope, record)
        return Conversation(envelope, request, target, key, asked=asked)

    def _deadline(self, record: Record, request: ChatRequest, received_at: float) -> float:
        """On the monotonic clock. The record's own time counts only if the broker wrote it."""
        asked_ms = request.options.deadline_ms
        limit_s = asked_ms / 1000 if asked_ms else self._settings.deadline_s
        waited_s = 0.0
        if record.timestamp_type == "append":
            waited_s = max(self._clock().timestamp() - record.timestamp_ms / 1000, 0.0)
        return received_at + limit_s - waited_s

    async def _answer(self, conversation: Conversation) -> ChatReply:
        attempt = 0
        while True:
            try:
                known = await self._store.recall_reply(conversation.key)
                if known is not None:
                    return known.reply
                if conversation.request.stream:
                    reply = await self._stream(conversation)
                else:
                    reply = await self._service.answer(conversation.request)
                self._count_tokens(reply)
                return reply
            except RetryError as error:
                attempt += 1
                await back_off(attempt, error, self._metrics)

    async def _remember(self, conversation: Conversation, reply: ChatReply) -> StoredReply:
        """Return the reply that stands for this request: this one, or what was stored before.

        Refusals are remembered too: a request that comes again must not be told otherwise.
        """
        attempt = 0
        while True:
            try:
                return await self._store.remember_reply(conversation.key, reply)
            except RetryError as error:
                attempt += 1
                await back_off(attempt, error, self._metrics)

    async def _stream(self, conversation: Conversation) -> ChatReply:
        """Send pieces as they come, a few a second, and return the whole reply."""
        begun = time.monotonic()
        sent_at, pending, conversation.pieces = begun, "", 0
        async for part in self._service.stream(conversation.request):
            if isinstance(part, ChatReply):
                return part
            if not pending and conversation.pieces == 0:
                self._metrics.first_token.observe(time.monotonic() - begun)
            pending += part
            if time.monotonic() - sent_at >= self._settings.stream_interval_s:
                piece = self._piece(conversation, pending)
                await self._send(conversation, piece, conversation.pieces, final=False)
                conversation.pieces += 1
                sent_at, pending = time.monotonic(), ""
        raise InternalError

    def _piece(self, conversation: Conversation, text: str) -> ChatReply:
        return ChatReply(
            elder_id=conversation.request.elder_id, reply=text, model=None, duration_ms=0
        )

    async def _send(
        self,
        conversation: Conversation,
        reply: ChatReply,
        sequence: int | None = None,
        *,
        final: bool = True,
        at: datetime | None = None,
    ) -> None:
        part = None if final else sequence
        encoded = encode_reply(
            reply,
            reply_id(conversation.envelope.id, conversation.key, part),
            conversation.envelope.traceparent,
            sequence=sequence,
            final=final,
            at=at,
        )
        await self._outlet.reply(conversation.target, encoded, asked=conversation.asked)

    def _count_tokens(self, reply: ChatReply) -> None:
        if reply.usage is not None:
            self._metrics.tokens.labels("prompt").observe(reply.usage.prompt_tokens)
            self._metrics.tokens.labels("completion").observe(reply.usage.completion_tokens)
