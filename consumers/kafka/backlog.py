"""Records fetched and not yet under way: what the poll loop holds back when there is too much.

librdkafka needs up to a second to fetch again after a pause. What is held here bridges it, so
that a role is not slowed to its limit of records a second.
"""

import time
from collections import deque
from collections.abc import Callable

from consumers.kafka.offsets import Partition
from schemas.base import Frozen
from schemas.record import Record


class Held(Frozen):
    """A record and when it came, on the monotonic clock: a deadline counts from there."""

    record: Record
    received_at: float


class HeldBack:
    """Records in the order in which they came. Not thread-safe: the poll thread owns it."""

    def __init__(
        self, most: int, most_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """It is full at one of both, and takes all the same what one fetch brings more."""
        self._most = most
        self._most_bytes = most_bytes
        self._clock = clock
        self._held: deque[Held] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def room(self) -> int:
        """How many records more may be held."""
        return max(self._most - len(self._held), 0)

    @property
    def is_full(self) -> bool:
        """Whether no more should be fetched."""
        return len(self._held) >= self._most or self._bytes >= self._most_bytes

    @property
    def is_half_empty(self) -> bool:
        """Whether it is time to fetch again."""
        return len(self._held) <= self._most // 2 and self._bytes <= self._most_bytes // 2

    def put(self, record: Record) -> None:
        """Hold a record back."""
        self._held.append(Held(record=record, received_at=self._clock()))
        self._bytes += record.size

    def take(self) -> Held:
        """Give out the record that came first."""
        first = self._held.popleft()
        self._bytes -= first.record.size
        return first

    def drop(self, gone: set[Partition]) -> None:
        """Forget the records of partitions that were taken away: the next owner gets them."""
        kept = [h for h in self._held if (h.record.topic, h.record.partition) not in gone]
        self._held = deque(kept)
        self._bytes = sum(held.record.size for held in kept)
