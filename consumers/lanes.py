"""Lanes: threads that work on records, one elder's always in the same lane and in order."""

import queue
import threading
import time
import zlib
from collections.abc import Callable
from typing import Protocol

from pydantic import Field

from consumers.offsets import Ticket
from schemas.base import Frozen
from schemas.errors import Interrupted
from schemas.record import Record


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
            try:
                self._process(works)
            except Interrupted:
                return  # Not dealt with: no ticket is closed, the next owner gets them again.
            for work in works:
                self._done(work.ticket)
            if stop:
                return


def _drain(waiting: "queue.SimpleQueue[Work | None]") -> None:
    while True:
        try:
            waiting.get_nowait()
        except queue.Empty:
            return
