"""The loop as a member of its group: what it commits, pauses, forgets and begins anew."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import KafkaError

from config.kafka import KafkaSettings
from config.kafka_security import ClientConfig
from config.metrics import Metrics
from consumers.kafka.loop import ConsumerLoop
from tests.fakes.consumer import TOPIC, FakeConsumer, HandExecutor

LIMIT_S = 10.0


class Member:
    """A loop in a thread of its own, over a fake consumer and an executor worked by hand."""

    def __init__(self, limit: int = 100, hold: int = 100) -> None:
        self.consumers: list[FakeConsumer] = []
        self.executor = HandExecutor()
        self.metrics = Metrics()
        self.loop = ConsumerLoop(
            "chat",
            [TOPIC],
            KafkaSettings(),
            self.executor,
            self.metrics,
            limit=limit,
            hold=hold,
            make_consumer=self._make,
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.loop.run, args=(self._stop,))

    def _make(self, config: ClientConfig) -> FakeConsumer:
        self.consumers.append(FakeConsumer(config))
        return self.consumers[-1]

    @property
    def consumer(self) -> FakeConsumer:
        """The one that is in use."""
        return self.consumers[-1]

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()

    def rebalances(self, kind: str) -> float:
        labels = {"role": "chat", "kind": kind}
        name = "modelserver_rebalances_total"
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def member() -> Iterator[Member]:
    made = Member()
    made.start()
    yield made
    made.stop()


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    pause = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline
        pause.wait(0.002)


def committed(member: Member) -> dict[int, int]:
    """What the broker has of each partition now."""
    return {p: offset for commit in member.consumer.commits for p, offset in commit.items()}


def commits(member: Member) -> list[tuple[dict[int, int], bool]]:
    """What was committed, and whether without waiting for the broker."""
    return list(zip(member.consumer.commits, member.consumer.asynchronous, strict=True))


def test_what_is_dealt_with_is_committed_up_to_the_first_record_that_is_not(
    member: Member,
) -> None:
    member.consumer.gives(0)
    member.consumer.brings(0, 5, 6, 7)
    until(lambda: member.executor.offsets == [5, 6, 7])
    member.executor.deal_with(5, 7)
    until(lambda: committed(member) == {0: 6})
    member.executor.deal_with(6)
    until(lambda: committed(member) == {0: 8})


def test_partitions_that_are_taken_back_are_committed_first_and_then_forgotten(
    member: Member,
) -> None:
    member.consumer.gives(0, 1)
    member.consumer.brings(0, 5, 6)
    member.consumer.brings(1, 9)
    until(lambda: member.executor.offsets == [5, 6, 9])
    member.consumer.takes(0, first=lambda: member.executor.deal_with(5, 9))
    until(lambda: member.rebalances("revoked"))
    assert commits(member)[0] == ({0: 6}, False), "at once, and no other partition with it"
    until(lambda: commits(member)[1:] == [({1: 10}, True)])
    member.executor.deal_with(6)
    member.consumer.gives(0)
    member.consumer.brings(0, 6)
    until(lambda: member.executor.offsets == [6])
    assert committed(member)[0] == 6, "what was finished after the partition went counts for none"
    member.executor.deal_with(6)
    until(lambda: committed(member)[0] == 7)


def test_nothing_is_committed_of_partitions_that_were_lost(member: Member) -> None:
    member.consumer.gives(0)
    member.consumer.brings(0, 5)
    until(lambda: member.executor.offsets == [5])
    member.consumer.loses(0)
    until(lambda: member.rebalances("lost"))
    member.executor.deal_with(5)
    member.stop()
    assert member.consumer.commits == []


def test_member_is_assigned_while_it_holds_something(member: Member) -> None:
    member.consumer.gives(0, 1)
    until(lambda: member.loop.assigned)
    member.consumer.takes(0)
    until(lambda: member.rebalances("revoked"))
    assert member.loop.assigned
    member.consumer.loses(1)
    until(lambda: not member.loop.assigned)
    member.consumer.gives(1)
    until(lambda: member.loop.assigned)
    member.consumer.takes(1)
    until(lambda: not member.loop.assigned)


def test_commit_that_is_refused_later_is_made_again(member: Member) -> None:
    """Also where no record comes any more, which would commit a later position."""
    member.consumer.gives(0)
    member.consumer.brings(0, 5)
    until(lambda: member.executor.offsets == [5])
    member.executor.deal_with(5)
    until(lambda: member.consumer.commits == [{0: 6}])
    member.consumer.confirms(0, KafkaError.REBALANCE_IN_PROGRESS)
    until(lambda: member.consumer.commits == [{0: 6}, {0: 6}])
    member.consumer.confirms(0)
    member.consumer.confirms(0, KafkaError._NO_OFFSET)
    until(lambda: member.consumer.is_idle)
    member.stop()
    assert member.consumer.commits == [{0: 6}, {0: 6}], "what was confirmed is not made again"


def test_commit_that_is_refused_at_once_is_made_again(member: Member) -> None:
    member.consumer.gives(0)
    member.consumer.brings(0, 5)
    until(lambda: member.executor.offsets == [5])
    member.consumer.refusal = KafkaError(KafkaError.REBALANCE_IN_PROGRESS)
    member.executor.deal_with(5)
    member.consumer.takes()
    until(lambda: member.rebalances("revoked"))
    member.consumer.refusal = None
    until(lambda: member.consumer.commits == [{0: 6}])


@pytest.fixture
def narrow() -> Iterator[Member]:
    made = Member(limit=2, hold=2)
    made.start()
    yield made
    made.stop()


def test_full_member_pauses_all_that_it_holds_and_goes_on_at_half(narrow: Member) -> None:
    narrow.consumer.gives(0, 1)
    narrow.consumer.brings(0, 1, 2, 3, 4, 5)
    until(lambda: narrow.consumer.paused == {0, 1})
    assert narrow.executor.offsets == [1, 2], "two under way, two in the backlog"
    narrow.consumer.gives(2)
    narrow.consumer.brings(2, 50)
    until(lambda: narrow.consumer.paused == {0, 1, 2})
    narrow.executor.deal_with(1, 2)
    until(lambda: narrow.executor.offsets == [3, 4])
    narrow.executor.deal_with(3, 4)
    until(lambda: set(narrow.executor.offsets) == {5, 50})
    until(lambda: narrow.consumer.paused == set())


def test_backlog_of_a_revoked_partition_is_neither_committed_nor_handed_on(
    narrow: Member,
) -> None:
    narrow.consumer.gives(0, 1)
    narrow.consumer.brings(0, 1, 2, 3, 4)
    until(lambda: narrow.consumer.paused == {0, 1})
    narrow.consumer.takes(0, first=lambda: narrow.executor.deal_with(1, 2))
    until(lambda: narrow.rebalances("revoked"))
    assert committed(narrow) == {0: 3}
    narrow.consumer.brings(1, 9)
    until(lambda: narrow.executor.offsets == [9])


def test_records_that_are_taken_away_no_longer_hold_up_the_others(narrow: Member) -> None:
    narrow.consumer.gives(0, 1)
    narrow.consumer.brings(0, 1, 2, 3, 4)
    until(lambda: narrow.consumer.paused == {0, 1})
    narrow.consumer.loses(0)
    until(lambda: narrow.consumer.paused == set())


def test_records_after_a_reset_are_handled_though_their_offsets_were_seen(
    member: Member,
) -> None:
    """The log was cut short: the same numbers are other records."""
    member.consumer.gives(0)
    member.consumer.brings(0, 5, 6)
    until(lambda: member.executor.offsets == [5, 6])
    member.executor.deal_with(5)
    until(lambda: committed(member) == {0: 6})
    member.consumer.brings(0, 2, 3)
    until(lambda: member.executor.offsets == [6, 2, 3])
    assert member.rebalances("reset") == 1
    member.executor.deal_with(6, 2)
    until(lambda: committed(member) == {0: 3})


@pytest.mark.parametrize("told_by", ["callback", "poll"])
def test_consumer_that_met_a_fatal_error_is_replaced(member: Member, told_by: str) -> None:
    dead = member.consumer
    dead.gives(0)
    dead.brings(0, 5)
    until(lambda: member.executor.offsets == [5])
    if told_by == "callback":
        dead.fails(KafkaError.FENCED_INSTANCE_ID, fatal=True)
    else:
        dead.is_dead = True
    until(lambda: len(member.consumers) == 2)
    assert dead.is_closed and dead.commits == []
    assert not member.loop.assigned
    member.executor.deal_with(5)
    member.consumer.gives(0)
    member.consumer.brings(0, 5)
    until(lambda: member.loop.assigned and member.executor.offsets == [5])
    assert committed(member) == {}, "what the dead one gave out counts for nothing"
    member.executor.deal_with(5)
    until(lambda: committed(member) == {0: 6})
    assert member.rebalances("died") == 1


def test_record_that_was_read_before_the_consumer_died_is_not_left_out(member: Member) -> None:
    """Between poll() and consume(): the record would have no ticket, and the next one would."""
    member.consumer.gives(0)
    until(lambda: member.loop.assigned)
    member.consumer.refusal_to_read = KafkaError(KafkaError._TIMED_OUT)
    member.consumer.brings(0, 5, 6)
    until(lambda: member.executor.offsets == [5, 6])


def test_error_that_is_not_fatal_leaves_the_consumer_as_it_is(member: Member) -> None:
    member.consumer.fails(KafkaError._ALL_BROKERS_DOWN)
    member.consumer.gives(0)
    until(lambda: member.loop.assigned)
    assert len(member.consumers) == 1


def test_member_that_stops_while_its_consumer_is_dead_leaves(member: Member) -> None:
    member.consumer.is_dead = True
    until(lambda: member.rebalances("died"))
    member.stop()
    assert all(consumer.is_closed for consumer in member.consumers)


def test_full_member_whose_consumer_died_leaves_too(narrow: Member) -> None:
    narrow.consumer.gives(0)
    narrow.consumer.brings(0, 1, 2, 3, 4)
    until(lambda: narrow.consumer.paused == {0})
    narrow.consumer.is_dead = True
    until(lambda: narrow.rebalances("died"))
    narrow.stop()
    assert all(consumer.is_closed for consumer in narrow.consumers)
