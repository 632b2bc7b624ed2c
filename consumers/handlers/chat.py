"""`chat-requests`: answers many requests at once, on an event loop in a thread of its own.

How one request gets its one reply is in `chat_request`.
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
from consumers.handlers.chat_outlet import ChatOutlet
from consumers.handlers.chat_request import RequestAnswerer
from consumers.kafka.backoff import Backoff
from consumers.kafka.faults import describe_fault
from consumers.kafka.lanes import Done, Work
from pipeline.chat.service import ChatService
from pipeline.chat.store import ChatStore
from producers.publisher import Publisher
from producers.replies import Replies
from schemas.topics import CHAT_REQUESTS

log = structlog.get_logger(__name__)


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
        """`make_store` and `make_service` are called on the event loop: their clients need it."""
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

    # Called from the poll thread ---------------------------------------------------------------

    @property
    def threads(self) -> list[threading.Thread]:
        """The thread of the event loop."""
        return [self._thread]

    def start(self, done: Done) -> None:
        """Start the event loop; raises the error if the clients cannot be made."""
        self._done = done
        self._thread.start()
        self._opened.result()

    def submit(self, work: Work) -> None:
        """Begin to answer a request."""
        self._loop.call_soon_threadsafe(self._begin, work)

    def stop(self, limit_s: float) -> bool:
        """Let the answers under way finish within `limit_s`; False if some were cancelled."""
        ended = asyncio.run_coroutine_threadsafe(self._drain(limit_s), self._loop)
        finished = ended.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        return finished

    # Run on the event loop ---------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._open())
        except Exception as error:  # the thread's edge: `start` waits for it and raises it
            self._opened.set_exception(error)
        else:
            self._opened.set_result(None)
            self._loop.run_forever()
        self._loop.close()

    async def _open(self) -> None:
        self._store = self._make_store()
        self._service = self._make_service(self._store)
        self._answerer = RequestAnswerer(
            store=self._store,
            service=self._service,
            outlet=self._outlet,
            settings=self._settings,
            metrics=self._metrics,
            clock=self._clock,
            max_bytes=self._max_bytes,
        )

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
        backoff = Backoff()
        while True:
            try:
                outcome = await self._answerer.answer_or_set_aside(work.record, work.received_at)
                break
            except Exception as error:  # the task's edge: no caller sees what a task raises
                place, wait_s = work.record.position, backoff.next_s()
                log.error("chat.fault", position=place, fault=describe_fault(error), wait_s=wait_s)
                await asyncio.sleep(wait_s)
        self._metrics.consumed.labels(CHAT_REQUESTS.name, outcome).inc()
        seconds = time.monotonic() - work.received_at
        self._metrics.chat_seconds.labels(outcome).observe(seconds)
        self._done(work.ticket)
