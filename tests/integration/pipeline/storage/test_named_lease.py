"""Named leases: one holder at a time, on a real store."""

from pymongo import MongoClient

from embedded.process import free_port
from pipeline.storage.mongo import Document, Store
from pipeline.storage.named_lease import NamedLease
from tests.waiting import wait_for

LEASE_S = 0.3


class Clock:
    """A process's own clock, which the test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lease(store: Store, owner: str, clock: Clock, lease_s: float = 60) -> NamedLease:
    return NamedLease(store, "relay", owner, lease_s=lease_s, monotonic=clock)


def test_the_first_to_take_it_holds_it_and_keeps_it(store: Store) -> None:
    clock = Clock()
    one, two = lease(store, "one", clock), lease(store, "two", clock)
    assert one.acquire() and not two.acquire()
    clock.now += 30
    assert one.acquire() and not two.acquire()
    assert one.is_held() and not two.is_held()


def test_lease_that_was_released_is_free(store: Store) -> None:
    clock = Clock()
    one, two = lease(store, "one", clock), lease(store, "two", clock)
    assert one.acquire()
    one.release()
    assert not one.is_held()
    assert two.acquire() and not one.acquire()


def test_holder_that_is_gone_loses_it_after_its_lease(store: Store) -> None:
    clock = Clock()
    assert lease(store, "one", clock, LEASE_S).acquire()
    two = lease(store, "two", clock, LEASE_S)
    wait_for(two.acquire, "the lease is over on the store's clock")


def test_holder_that_slept_knows_by_its_own_clock_that_it_is_over(store: Store) -> None:
    clock = Clock()
    one = lease(store, "one", clock)
    assert one.acquire()
    clock.now += 61
    assert not one.is_held()
    assert one.acquire(), "nobody else came meanwhile"


def test_lease_is_held_for_a_while_only_where_nobody_else_had_it_in_between(store: Store) -> None:
    """A suspended process has read events that another may have published since."""
    clock = Clock()
    one = lease(store, "one", clock)
    assert not one.is_held_for(1), "nobody gave it to him yet"
    assert one.acquire()
    clock.now += 35
    assert one.is_held_for(40), "renewed, as a third of it was over"
    assert not one.is_held_for(61)
    clock.now += 61
    assert not one.is_held_for(1), "over, though MongoDB would give it again"
    assert one.acquire() and one.is_held_for(1)


def test_somebody_elses_lease_cannot_be_released(store: Store) -> None:
    clock = Clock()
    one, two = lease(store, "one", clock), lease(store, "two", clock)
    assert one.acquire()
    two.release()
    assert not two.acquire()


def test_store_that_is_away_ends_no_lease_before_its_time() -> None:
    clock = Clock()
    away: MongoClient[Document] = MongoClient(
        f"mongodb://127.0.0.1:{free_port()}", serverSelectionTimeoutMS=50
    )
    with away:
        # A renewal gives up after half of the lease.
        one = lease(away["nowhere"], "one", clock, lease_s=0.6)
        assert not one.renew(), "it never had it"
        one._asked_at = clock.now
        clock.now += 0.5
        assert one.renew(), "the lease still runs"
        clock.now += 0.2
        assert not one.renew()
