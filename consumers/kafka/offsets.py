"""Which offsets may be committed: all before the first record that is not dealt with.

A ticket belongs to one assignment. After a partition was taken away, what its former tickets
still finish counts for nothing, even when the partition comes back. A partition whose offsets go
back was reset by the broker, and that is a new assignment too.
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
    """The offsets of the partitions held now. Not thread-safe: the poll thread owns it."""

    def __init__(self) -> None:
        self._partitions: dict[Partition, _Assigned] = {}
        self._assignments = 0

    def assign(self, partitions: list[Partition]) -> None:
        """Take over partitions, with nothing under way."""
        for partition in partitions:
            self._assignments += 1
            self._partitions[partition] = _Assigned(self._assignments)

    def revoke(self, partitions: list[Partition]) -> None:
        """Forget partitions; their tickets are void."""
        for partition in partitions:
            self._partitions.pop(partition, None)

    def holds(self, topic: str, partition: int) -> bool:
        """Say whether a partition is held now."""
        return (topic, partition) in self._partitions

    def start(self, topic: str, partition: int, offset: int) -> Ticket | None:
        """Open a ticket for a record; None where the partition is not held.

        Where the offsets go back the partition begins anew: earlier tickets are void, and what
        was committed is forgotten, since it lies in a log that is no more.
        """
        if self.goes_back(topic, partition, offset):
            self.assign([(topic, partition)])
        held = self._partitions.get((topic, partition))
        if held is None:
            return None
        held.open[offset] = False
        held.next_offset = offset + 1
        return Ticket(topic=topic, partition=partition, offset=offset, assignment=held.assignment)

    def goes_back(self, topic: str, partition: int, offset: int) -> bool:
        """Say whether an offset is before what was read in this assignment.

        The client reads on and on within one, so only a reset does that: the log was cut short
        or made anew.
        """
        held = self._partitions.get((topic, partition))
        return held is not None and held.next_offset is not None and offset < held.next_offset

    def finish(self, ticket: Ticket) -> bool:
        """Close a ticket; False where it is void."""
        held = self._partitions.get((ticket.topic, ticket.partition))
        if held is None or held.assignment != ticket.assignment or ticket.offset not in held.open:
            return False
        held.open[ticket.offset] = True
        while held.open and held.open[next(iter(held.open))]:
            held.open.popitem(last=False)
        return True

    def committable(self) -> dict[Partition, int]:
        """For each partition with news, the offset of the first record not dealt with."""
        positions: dict[Partition, int] = {}
        for partition, held in self._partitions.items():
            position = next(iter(held.open), held.next_offset)
            if position is not None and position != held.committed and held.next_offset:
                first_seen = held.committed if held.committed is not None else -1
                if position > first_seen:
                    positions[partition] = position
        return positions

    def mark_committed(self, positions: dict[Partition, int]) -> None:
        """Remember what was committed."""
        for partition, position in positions.items():
            if partition in self._partitions:
                self._partitions[partition].committed = position

    def mark_refused(self, partitions: list[Partition]) -> None:
        """Take back `mark_committed` where the broker refused: the position is due again."""
        for partition in partitions:
            if partition in self._partitions:
                self._partitions[partition].committed = None

    @property
    def held(self) -> list[Partition]:
        """The partitions held now."""
        return list(self._partitions)

    @property
    def in_flight(self) -> int:
        """How many records are under way or wait for an earlier one."""
        return sum(len(held.open) for held in self._partitions.values())
