"""Lanes: threads that process records; one elder's records keep their order in one lane.

No fault ends a lane. An error that escapes the processing is logged, and the records are tried
again: they are not committed before they are done.
"""

import queue
import threading
import time
import zlib
from collections.abc import Callable
from typing import Protocol

import structlog
from pydantic import Field

from consumers.kafka.backoff import Backoff
from consumers.kafka.faults import describe_fault
from consumers.kafka.offsets import Ticket
from schemas.base import Frozen
from schemas.errors import Stopped
from schemas.record import Record

log = structlog.get_logger(__name__)


class Work(Frozen):
    """A record under way and its ticket; `received_at` is in seconds of the monotonic clock."""

    record: Record
    ticket: Ticket
    received_at: float = Field(default_factory=time.monotonic)


Process = Callable[[list[Work]], None]
Done = Callable[[Ticket], None]


class Executor(Protocol):
    """Processes records for the poll loop, in threads of its own. `submit` never blocks."""

    def start(self, done: Done) -> None:
        """Start the threads. They call `done` with the ticket of each record that is finished."""

    def submit(self, work: Work) -> None:
        """Take over a record."""

    def stop(self, limit_s: float) -> bool:
        """Finish what is under way within `limit_s`; False if something was left."""

    @property
    def threads(self) -> "list[threading.Thread]":
        """The threads that must live as long as the process does."""


class Lanes:
    """`count` threads, each with its queue; `process` gets up to `batch` records at once."""

    def __init__(self, name: str, process: Process, *, count: int = 1, batch: int = 1) -> None:
        self._process = process
        self._batch = batch
        self._queues: list[queue.SimpleQueue[Work | None]] = [
            queue.SimpleQueue() for _ in range(count)
        ]
        self._threads = [
            threading.Thread(target=self._serve, args=(q,), name=f"{name}-{i}", daemon=True)
            for i, q in enumerate(self._queues)
        ]
        self._done: Done = lambda ticket: None
        self._stopping = threading.Event()

    @property
    def threads(self) -> list[threading.Thread]:
        """The lanes' threads, one for each lane."""
        return self._threads

    def start(self, done: Done) -> None:
        """Start the threads."""
        self._done = done
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work) -> None:
        """Queue a record in the lane of its key; without a key, in that of its position."""
        key = work.record.key or work.record.position.encode()
        self._queues[zlib.crc32(key) % len(self._queues)].put(work)

    def stop(self, limit_s: float) -> bool:
        """Let each thread finish the batch it has begun; the next owner reads the rest again."""
        self._stopping.set()
        for waiting in self._queues:
            _drain(waiting)
            waiting.put(None)
        for thread in self._threads:
            thread.join(limit_s)
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self, waiting: "queue.SimpleQueue[Work | None]") -> None:
        while (first := waiting.get()) is not None:
            works = [first]
            stop = False
            while len(works) < self._batch:
                try:
                    following = waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    stop = True
                    break
                works.append(following)
            if not self._process_with_backoff(works):
                return  # The tickets stay open, so the next owner reads these records again.
            for work in works:
                self._done(work.ticket)
            if stop:
                return

    def _process_with_backoff(self, works: list[Work]) -> bool:
        """Process records until they are done; False if the process stops before that."""
        backoff = Backoff()
        while True:
            try:
                self._process(works)
                return True
            except Stopped:
                return False
            except Exception as error:  # the lane's edge: its other records must not wait for ever
                wait_s = backoff.next_s()
                place, fault = works[0].record.position, describe_fault(error)
                log.error("lane.fault", position=place, fault=fault, wait_s=round(wait_s, 2))
                if self._stopping.wait(wait_s):
                    return False


def _drain(waiting: "queue.SimpleQueue[Work | None]") -> None:
    while True:
        try:
            waiting.get_nowait()
        except queue.Empty:
            return
