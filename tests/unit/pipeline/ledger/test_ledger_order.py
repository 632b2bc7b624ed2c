"""The jobs of one elder begin in the order of the log, whoever is held up between two steps.

The simulation found all of these; here each is told by itself.
"""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from pipeline.ledger.events import Announcer
from pipeline.ledger.ledger import Ledger
from pipeline.storage.indexes import ensure_indexes
from tests.fakes.clock import FalseClock
from tests.fakes.mongo import FakeStore, Moment, nothing_happens
from tests.ledger.witness import Crash, new_request

LEASE_S = 30.0
FAIR_S = 600.0


@pytest.fixture
def store() -> FakeStore:
    """An empty store with its indexes, whose clock moves at each look."""
    store = FakeStore(FalseClock(tick_ms=1))
    ensure_indexes(store.as_store(), dedup_hours=1)
    return store


@pytest.fixture
def ledger(store: FakeStore) -> Ledger:
    """A ledger over it."""
    return Ledger(
        store.as_store(), Announcer(lambda: datetime.now(UTC), "en"), lease_s=LEASE_S, fair_s=FAIR_S
    )


def once(store: FakeStore, number: int, command: str, what: Callable[[], None]) -> None:
    """Do something just before the next command of a name, or one after it."""
    left = [number]

    def look(moment: Moment) -> None:
        if (moment.when, moment.command) == ("before", command):
            left[0] -= 1
            if left[0] == 0:
                store.on_moment = nothing_happens
                what()

    store.on_moment = look


def crash() -> None:
    raise Crash


def order_of_claims(store: FakeStore, ledger: Ledger) -> list[str]:
    """Claim and finish until nothing is left."""
    requests = []
    while (lease := ledger.claim("w")) is not None:
        requests.append(lease.job.request_id)
        ledger.finish(lease, "succeeded")
        store.clock.advance(LEASE_S)
    return requests


def test_request_whose_name_is_taken_is_not_overtaken_within_its_batch(
    store: FakeStore, ledger: Ledger
) -> None:
    """The reader crashes before it has found another name, and reads the batch again."""
    ledger.accept([new_request(1, "LXM", job_id="mine")])
    batch = [new_request(2, "LXM", job_id="mine"), new_request(3, "LXM")]
    once(store, 2, "insert_many", crash)
    with pytest.raises(Crash):
        ledger.accept(batch)
    assert order_of_claims(store, ledger) == ["event-1"]
    ledger.accept(batch)
    assert order_of_claims(store, ledger) == ["event-2", "event-3"]


def test_request_stored_with_an_earlier_time_is_not_put_before_the_earlier_request(
    store: FakeStore, ledger: Ledger
) -> None:
    """A reader is held up after its look at the clock; another has the partition meanwhile."""
    batch = [new_request(1, "LXM"), new_request(2, "LXM")]

    def other_reader() -> None:
        ledger.accept(batch[:1])

    once(store, 1, "insert_many", other_reader)
    ledger.accept(batch)
    assert order_of_claims(store, ledger) == ["event-1", "event-2"]


def test_job_released_during_a_claim_is_not_overtaken(store: FakeStore, ledger: Ledger) -> None:
    """Another worker had the first job while this one looked; it gave it back before the write."""
    ledger.accept([new_request(1, "LXM"), new_request(2, "LXM")])

    def other_worker_claims() -> None:
        lease = ledger.claim("other")
        assert lease is not None

        def other_worker_releases() -> None:
            ledger.release(lease, wait_s=5, count_attempt=True)

        once(store, 1, "update_one", other_worker_releases)

    # Of a claim's looks the second is for the queue: nobody is seen running before it.
    once(store, 2, "find_one", other_worker_claims)
    assert ledger.claim("w") is None
    assert ledger.get("LXM_1767225600_2").status == "queued"
    assert ledger.claim("w") is None, "the elder's first job backs off"
    store.clock.advance(6)
    assert order_of_claims(store, ledger) == ["event-1", "event-2"]


def test_job_that_began_to_back_off_during_a_claim_is_not_taken(
    store: FakeStore, ledger: Ledger
) -> None:
    """It was free when the claim asked who backs off, and queued again when it asked for a job."""
    ledger.accept([new_request(1, "LXM")])

    def other_worker_fails() -> None:
        lease = ledger.claim("other")
        assert lease is not None
        ledger.release(lease, wait_s=5, count_attempt=True)

    once(store, 2, "find_one", other_worker_fails)
    assert ledger.claim("w") is None
    store.clock.advance(6)
    assert order_of_claims(store, ledger) == ["event-1"]
