"""The offset tracker against a plain model, through assignments, losses and failed commits.

The model is the broker's log with, for each partition that is held, the offsets that were given
out in this assignment and which of them are done. Partitions go and come back with tickets still
out; some partitions are taken away and given in one call; the broker refuses some commits; logs are
cut short, and their offsets go back.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from consumers.kafka.offsets import OffsetTracker, Partition, Ticket

PARTITIONS: list[Partition] = [("t", 0), ("t", 1), ("u", 0)]
some_partitions = st.lists(st.sampled_from(PARTITIONS), unique=True, max_size=3)


@dataclass
class Held:
    """A partition in one assignment."""

    assignment: int
    position: int
    """Where the consumer reads next; at first what was committed."""
    given: dict[int, bool] = field(default_factory=dict)
    offered: int = -1
    """The highest position that was committable in this assignment."""

    @property
    def first_unfinished(self) -> int:
        """The offset that a restart must begin at."""
        return min((o for o, is_done in self.given.items() if not is_done), default=self.position)


class OffsetsAgainstAPlainModel(RuleBasedStateMachine):
    """The tracker, and the model beside it."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.tracker = OffsetTracker()
        self.held: dict[Partition, Held] = {}
        self.committed: dict[Partition, int] = {}
        self.known: dict[Partition, int] = {}
        """What the tracker was told of commits in the present assignment."""
        self.assignments = 0

    # Steps ----------------------------------------------------------------------------------

    @rule(partitions=some_partitions)
    def assign(self, partitions: list[Partition]) -> None:
        """Anew or once more: what was given out before is void either way."""
        self.tracker.assign(partitions)
        for partition in partitions:
            self.assignments += 1
            self.held[partition] = Held(self.assignments, self.committed.get(partition, 0))
            self.known.pop(partition, None)

    @rule(partitions=some_partitions)
    def revoke(self, partitions: list[Partition]) -> None:
        self.tracker.revoke(partitions)
        for partition in partitions:
            self.held.pop(partition, None)
            self.known.pop(partition, None)

    @rule(
        target=tickets,
        partition=st.sampled_from(PARTITIONS),
        gaps=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    )
    def start(self, partition: Partition, gaps: list[int]) -> object:
        """Read on; compaction and transactions leave gaps."""
        started: list[tuple[Ticket, int]] = []
        for gap in gaps:
            held = self.held.get(partition)
            offset = gap + (held.position if held else 0)
            ticket = self.tracker.start(*partition, offset)
            assert (ticket is None) == (held is None)
            if ticket is not None and held is not None:
                assert (ticket.topic, ticket.partition, ticket.offset) == (*partition, offset)
                held.given[offset], held.position = False, offset + 1
                started.append((ticket, held.assignment))
        return multiple(*started)

    @rule(target=tickets, partition=st.sampled_from(PARTITIONS), back=st.integers(1, 5))
    def reset(self, partition: Partition, back: int) -> object:
        """The log was cut short: the same as a new assignment that begins there."""
        held = self.held.get(partition)
        if held is None:
            assert self.tracker.start(*partition, 0) is None
            return multiple()
        if not held.given:
            return multiple()  # Nothing was read yet: any offset is the first.
        offset = max(0, held.position - back)
        ticket = self.tracker.start(*partition, offset)
        assert ticket is not None
        self.assignments += 1
        self.held[partition] = Held(self.assignments, offset + 1, {offset: False})
        self.known.pop(partition, None)
        self.committed.pop(partition, None)
        return ticket, self.assignments

    @rule(one=tickets)
    def finish(self, one: tuple[Ticket, int]) -> None:
        """In any order, more than once, and long after the partition went."""
        ticket, assignment = one
        held = self.held.get((ticket.topic, ticket.partition))
        counts = held is not None and held.assignment == assignment
        if held is None or not counts:
            before = (self.tracker.committable(), self.tracker.in_flight)
            assert self.tracker.finish(ticket) is False
            assert (self.tracker.committable(), self.tracker.in_flight) == before
            return
        was_passed = ticket.offset < held.first_unfinished
        assert self.tracker.finish(ticket) is not was_passed
        held.given[ticket.offset] = True

    @rule(is_refused=st.booleans())
    def commit(self, is_refused: bool) -> None:
        positions = self.tracker.committable()
        if is_refused:
            assert self.tracker.committable() == positions
            return
        self.tracker.mark_committed(positions)
        self.committed |= positions
        self.known |= positions
        assert self.tracker.committable() == {}

    @rule(position=st.integers(0, 5))
    def commit_is_confirmed_of_a_partition_that_is_gone(self, position: int) -> None:
        gone = {p: position for p in PARTITIONS if p not in self.held}
        self.tracker.mark_committed(gone)

    # Promises -------------------------------------------------------------------------------

    @invariant()
    def committable_is_what_is_finished_and_new(self) -> None:
        """So nothing unfinished is passed, and nothing finished is held back."""
        expected = {
            partition: held.first_unfinished
            for partition, held in self.held.items()
            if held.given and held.first_unfinished > self.known.get(partition, -1)
        }
        assert self.tracker.committable() == expected

    @invariant()
    def no_position_goes_back_within_an_assignment(self) -> None:
        for partition, position in self.tracker.committable().items():
            held = self.held[partition]
            assert position >= held.offered
            assert position >= self.committed.get(partition, 0), "a commit would go back"
            held.offered = position

    @invariant()
    def in_flight_is_what_waits(self) -> None:
        waiting = [
            offset
            for held in self.held.values()
            for offset in held.given
            if offset >= held.first_unfinished
        ]
        assert self.tracker.in_flight == len(waiting)


TestOffsetsAgainstAPlainModel = OffsetsAgainstAPlainModel.TestCase
TestOffsetsAgainstAPlainModel.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, database=None, derandomize=True
)
