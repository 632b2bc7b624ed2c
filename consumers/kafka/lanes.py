"""Lanes: threads that work on records, one elder's always in the same lane and in order.

No fault ends a lane. What its work let through is logged and tried again: the record is neither
dealt with nor committed until it is done.
"""

import queue
import threading
import time
import zlib
from collections.abc import Callable
from typing import Protocol

import structlog
from pydantic import Field

from consumers.kafka.backoff import backoff_s, describe_fault
from consumers.kafka.offsets import Ticket
from schemas.base import Frozen
from schemas.errors import Stopped
from schemas.record import Record

log = structlog.get_logger(__name__)


class Work(Frozen):
    """A record under way, with its ticket; `received_at` is on the monotonic clock."""

    record: Record
    ticket: Ticket
    received_at: float = Field(default_factory=time.monotonic)


Process = Callable[[list[Work]], None]
Done = Callable[[Ticket], None]


class Executor(Protocol):
    """What the poll loop hands records to. `submit` never blocks."""

    def start(self, done: Done) -> None:
        """Begin; `done` is called, from any thread, when a record is dealt with."""

    def submit(self, work: Work) -> None:
        """Take a record over."""

    def stop(self, limit_s: float) -> bool:
        """Finish what is under way within the limit; False where something was left."""

    @property
    def threads(self) -> "list[threading.Thread]":
        """The threads that must live as long as the program does."""


class Lanes:
    """`count` threads, each with a queue; `process` gets up to `batch` records at once."""

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
        """One for each lane."""
        return self._threads

    def start(self, done: Done) -> None:
        """Start the threads."""
        self._done = done
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work) -> None:
        """Queue a record in the lane of its key."""
        key = work.record.key or work.record.position.encode()
        self._queues[zlib.crc32(key) % len(self._queues)].put(work)

    def stop(self, limit_s: float) -> bool:
        """Let each thread finish what it has begun, and leave the rest for the next owner."""
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
            if not self._deal_with(works):
                return  # No ticket is closed, the next owner gets them again.
            for work in works:
                self._done(work.ticket)
            if stop:
                return

    def _deal_with(self, works: list[Work]) -> bool:
        """Process records until they are done; False where the program stops before that."""
        attempt = 0
        while True:
            try:
                self._process(works)
                return True
            except Stopped:
                return False
            except Exception as error:  # the lane's edge: its other records must not wait for ever
                attempt += 1
                wait_s = backoff_s(attempt)
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
