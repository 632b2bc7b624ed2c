"""Offsets: never committed past a record that is not dealt with."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from consumers.offsets import OffsetTracker, Ticket

T0, T1 = ("t", 0), ("t", 1)


def started(tracker: OffsetTracker, offset: int, partition: int = 0) -> Ticket:
    ticket = tracker.start("t", partition, offset)
    assert ticket is not None
    return ticket


def test_position_waits_for_the_first_open_record() -> None:
    tracker = OffsetTracker()
    tracker.assign([T0])
    first, second = started(tracker, 5), started(tracker, 6)
    tracker.finish(second)
    assert tracker.committable() == {T0: 5}
    tracker.finish(first)
    assert tracker.committable() == {T0: 7}
    assert tracker.in_flight == 0


def test_what_is_committed_is_not_offered_again() -> None:
    tracker = OffsetTracker()
    tracker.assign([T0])
    tracker.finish(started(tracker, 0))
    tracker.mark_committed(tracker.committable())
    assert tracker.committable() == {}


def test_what_the_broker_refused_to_commit_is_offered_again() -> None:
    tracker = OffsetTracker()
    tracker.assign([T0])
    tracker.finish(started(tracker, 0))
    tracker.mark_committed(tracker.committable())
    tracker.mark_refused([T0, T1])
    assert tracker.committable() == {T0: 1}


def test_gaps_in_the_offsets_are_skipped() -> None:
    """Compaction and transactions leave some out."""
    tracker = OffsetTracker()
    tracker.assign([T0])
    for offset in (3, 9, 40):
        tracker.finish(started(tracker, offset))
    assert tracker.committable() == {T0: 41}


def test_record_of_a_partition_not_held_gets_no_ticket() -> None:
    tracker = OffsetTracker()
    tracker.assign([T0])
    assert tracker.start("t", 1, 0) is None
    tracker.revoke([T0])
    assert tracker.start("t", 0, 0) is None
    assert tracker.committable() == {}


def test_record_that_came_before_gets_no_second_ticket() -> None:
    tracker = OffsetTracker()
    tracker.assign([T0])
    started(tracker, 5)
    assert tracker.start("t", 0, 5) is None
    assert tracker.start("t", 0, 4) is None


def test_ticket_of_a_former_assignment_is_void() -> None:
    tracker = OffsetTracker()
    tracker.assign([T0, T1])
    old = started(tracker, 5)
    tracker.revoke([T0])
    assert tracker.finish(old) is False
    tracker.assign([T0])
    again = started(tracker, 5)
    assert tracker.finish(old) is False
    assert tracker.committable() == {T0: 5}
    assert tracker.finish(again) is True
    assert tracker.finish(again) is False
    assert tracker.committable() == {T0: 6}


class OffsetsAgainstAPlainModel(RuleBasedStateMachine):
    """The model: per partition the open and the seen offsets of the present assignment."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.tracker = OffsetTracker()
        self.open: dict[int, set[int]] = {}
        self.next: dict[int, int] = {}
        self.log = {0: 0, 1: 0, 2: 0}
        self.era = {0: 0, 1: 0, 2: 0}
        self.committed: dict[int, int] = {}

    @rule(partition=st.integers(0, 2))
    def assign(self, partition: int) -> None:
        if partition not in self.open:
            self.tracker.assign([("t", partition)])
            self.open[partition] = set()
            # What was not committed comes again.
            self.log[partition] = self.committed.get(partition, 0)
            self.next.pop(partition, None)
            self.era[partition] += 1

    @rule(partition=st.integers(0, 2))
    def revoke(self, partition: int) -> None:
        self.tracker.revoke([("t", partition)])
        self.open.pop(partition, None)

    @rule(target=tickets, partition=st.integers(0, 2), gap=st.integers(0, 3))
    def start(self, partition: int, gap: int) -> tuple[Ticket | None, int]:
        offset = self.log[partition] + gap
        ticket = self.tracker.start("t", partition, offset)
        assert (ticket is not None) == (partition in self.open)
        if ticket is not None:
            self.open[partition].add(offset)
            self.log[partition] = self.next[partition] = offset + 1
        return ticket, self.era[partition]

    @rule(held=consumes(tickets))
    def finish(self, held: tuple[Ticket | None, int]) -> None:
        ticket, era = held
        if ticket is None:
            return
        is_valid = ticket.partition in self.open and self.era[ticket.partition] == era
        assert self.tracker.finish(ticket) == is_valid
        if is_valid:
            self.open[ticket.partition].remove(ticket.offset)

    @rule()
    def commit(self) -> None:
        positions = self.tracker.committable()
        self.tracker.mark_committed(positions)
        for (_, partition), offset in positions.items():
            self.committed[partition] = offset
        assert self.tracker.committable() == {}

    @invariant()
    def nothing_unfinished_is_passed(self) -> None:
        for (_, partition), position in self.tracker.committable().items():
            assert position == min(self.open[partition], default=self.next[partition])

    @invariant()
    def no_position_is_kept_back(self) -> None:
        offered = {p for _, p in self.tracker.committable()}
        for partition, unfinished in self.open.items():
            if partition not in self.next:
                continue
            position = min(unfinished, default=self.next[partition])
            if position > self.committed.get(partition, -1):
                assert partition in offered


TestOffsetsAgainstAPlainModel = OffsetsAgainstAPlainModel.TestCase
TestOffsetsAgainstAPlainModel.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, database=None
)
