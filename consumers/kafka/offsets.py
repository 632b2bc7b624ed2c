"""Which offsets may be committed: everything before a partition's first unfinished record.

Each record under way has a ticket, and a ticket belongs to one assignment of its partition. Once
the partition is revoked its tickets are void, even if the partition comes back. Offsets that go
back mean that the broker reset the partition, which counts as a new assignment.
"""

from collections import OrderedDict

from schemas.base import Frozen

Partition = tuple[str, int]


class Ticket(Frozen):
    """One record under way."""

    topic: str
    partition: int
    offset: int
    assignment: int


class _Assigned:
    def __init__(self, assignment: int) -> None:
        self.assignment = assignment
        self.open: OrderedDict[int, bool] = OrderedDict()
        self.next_offset: int | None = None
        self.committed: int | None = None


class OffsetTracker:
    """The offsets of the assigned partitions. Not thread-safe: the poll thread owns it."""

    def __init__(self) -> None:
        self._partitions: dict[Partition, _Assigned] = {}
        self._assignments = 0

    def assign(self, partitions: list[Partition]) -> None:
        """Begin an assignment of these partitions, with nothing under way."""
        for partition in partitions:
            self._assignments += 1
            self._partitions[partition] = _Assigned(self._assignments)

    def revoke(self, partitions: list[Partition]) -> None:
        """Forget partitions; their tickets are void."""
        for partition in partitions:
            self._partitions.pop(partition, None)

    def is_assigned(self, topic: str, partition: int) -> bool:
        """Say whether a partition is assigned now."""
        return (topic, partition) in self._partitions

    def start(self, topic: str, partition: int, offset: int) -> Ticket | None:
        """Open a ticket for a record; None if its partition is not assigned.

        If the offset goes back, a new assignment begins: earlier tickets are void, and the
        committed position is forgotten, since it belongs to a log that no longer exists.
        """
        if self.goes_back(topic, partition, offset):
            self.assign([(topic, partition)])
        current = self._partitions.get((topic, partition))
        if current is None:
            return None
        current.open[offset] = False
        current.next_offset = offset + 1
        return Ticket(
            topic=topic, partition=partition, offset=offset, assignment=current.assignment
        )

    def goes_back(self, topic: str, partition: int, offset: int) -> bool:
        """Say whether an offset lies before what this assignment has read already.

        Within an assignment the client only reads forward, so this means a reset: the log was
        truncated or created anew.
        """
        current = self._partitions.get((topic, partition))
        if current is None or current.next_offset is None:
            return False
        return offset < current.next_offset

    def finish(self, ticket: Ticket) -> bool:
        """Close a ticket; False if it is void."""
        current = self._partitions.get((ticket.topic, ticket.partition))
        if current is None or current.assignment != ticket.assignment:
            return False
        if ticket.offset not in current.open:
            return False
        current.open[ticket.offset] = True
        while current.open and current.open[next(iter(current.open))]:
            current.open.popitem(last=False)
        return True

    def committable(self) -> dict[Partition, int]:
        """Return the first unfinished offset of each partition that has advanced."""
        positions: dict[Partition, int] = {}
        for partition, current in self._partitions.items():
            position = next(iter(current.open), current.next_offset)
            if position is not None and position != current.committed and current.next_offset:
                first_seen = current.committed if current.committed is not None else -1
                if position > first_seen:
                    positions[partition] = position
        return positions

    def mark_committed(self, positions: dict[Partition, int]) -> None:
        """Remember what was committed."""
        for partition, position in positions.items():
            if partition in self._partitions:
                self._partitions[partition].committed = position

    def mark_refused(self, partitions: list[Partition]) -> None:
        """Undo `mark_committed` if the broker refused: the position must be committed again."""
        for partition in partitions:
            if partition in self._partitions:
                self._partitions[partition].committed = None

    @property
    def assigned(self) -> list[Partition]:
        """The partitions assigned now."""
        return list(self._partitions)

    @property
    def in_flight(self) -> int:
        """How many records are unfinished, or finished behind one that is not."""
        return sum(len(current.open) for current in self._partitions.values())
