"""The backlog: records that were fetched and wait for a free lane.

librdkafka needs up to a second to fetch again after a pause. The backlog keeps the lanes busy
meanwhile; without it a role would process no more than its limit of records each second.
"""

import time
from collections import deque
from collections.abc import Callable

from consumers.kafka.offsets import Partition
from schemas.base import Frozen
from schemas.record import Record


class WaitingRecord(Frozen):
    """A record and when it was received, in seconds of the monotonic clock.

    A request's deadline counts from `received_at`.
    """

    record: Record
    received_at: float


class Backlog:
    """Records waiting for a free lane, oldest first. Not thread-safe: the poll thread owns it."""

    def __init__(
        self, capacity: int, capacity_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """It is full at either capacity, but still accepts the rest of the fetch under way."""
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._clock = clock
        self._waiting: deque[WaitingRecord] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def free(self) -> int:
        """How many more records fit."""
        return max(self._capacity - len(self._waiting), 0)

    @property
    def is_full(self) -> bool:
        """Whether fetching should stop."""
        return len(self._waiting) >= self._capacity or self._bytes >= self._capacity_bytes

    @property
    def is_half_empty(self) -> bool:
        """Whether fetching should go on."""
        few = len(self._waiting) <= self._capacity // 2
        return few and self._bytes <= self._capacity_bytes // 2

    def put(self, record: Record) -> None:
        """Add a record that was received just now."""
        self._waiting.append(WaitingRecord(record=record, received_at=self._clock()))
        self._bytes += record.size

    def take(self) -> WaitingRecord:
        """Remove and return the oldest record; raises IndexError if there is none."""
        first = self._waiting.popleft()
        self._bytes -= first.record.size
        return first

    def drop(self, revoked: set[Partition]) -> None:
        """Forget the records of revoked partitions: their next owner reads them again."""
        kept = [w for w in self._waiting if (w.record.topic, w.record.partition) not in revoked]
        self._waiting = deque(kept)
        self._bytes = sum(waiting.record.size for waiting in kept)
