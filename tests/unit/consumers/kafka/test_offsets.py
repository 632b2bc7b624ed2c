"""Offsets: never committed past a record that is not dealt with."""

import pytest

from consumers.kafka.offsets import OffsetTracker, Ticket

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


@pytest.mark.parametrize("offset", [0, 4, 5])
def test_partition_whose_offsets_go_back_begins_anew(offset: int) -> None:
    """The log was cut short or made anew: those are other records, and none may be dropped."""
    tracker = OffsetTracker()
    tracker.assign([T0])
    tracker.finish(started(tracker, 4))
    old = started(tracker, 5)
    tracker.mark_committed(tracker.committable())
    assert tracker.goes_back("t", 0, offset)
    again = started(tracker, offset)
    assert again.assignment != old.assignment
    assert tracker.finish(old) is False
    assert tracker.in_flight == 1
    tracker.finish(again)
    assert tracker.committable() == {T0: offset + 1}, "also before what was committed"


def test_partition_that_reads_on_or_is_not_held_does_not_go_back() -> None:
    tracker = OffsetTracker()
    assert not tracker.goes_back("t", 0, 0)
    tracker.assign([T0])
    assert not tracker.goes_back("t", 0, 0)
    started(tracker, 5)
    assert not tracker.goes_back("t", 0, 6)


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
