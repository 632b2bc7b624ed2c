"""Whose turn it is in the ledger, on the fake store and a real one: nobody waits for a flood.

What a claim takes with ten thousand jobs in the queue is printed by

    pytest -s tests/contract/pipeline/ledger/test_ledger_fairness.py -k ten_thousand
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from pipeline.ledger.events import Announcer
from pipeline.ledger.leases import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.storage.mongo import Store
from schemas.documents import Job
from schemas.errors import JobAlreadyEnded, UnknownJob
from tests.fakes.clock import FalseClock
from tests.ledger.witness import new_request

MANY = 10_000
BATCH = 500
LIMIT_S = 30.0
FAIR_S = 600.0
# On the real store these are real seconds: what is to happen "lately" must fit in there, on a
# machine that does much else too.
SHORT_S = 5.0


@pytest.fixture
def pass_time(clock: FalseClock | None) -> Callable[[float], None]:
    """Lets the store's clock go on: at once where it is false."""

    def pass_time(seconds: float) -> None:
        if clock is None:
            threading.Event().wait(seconds)
        else:
            clock.advance(seconds)

    return pass_time


def ledger_of(store: Store, fair_s: float = FAIR_S) -> Ledger:
    return Ledger(store, Announcer(lambda: datetime.now(UTC), "en"), lease_s=60, fair_s=fair_s)


@pytest.fixture
def ledger(store: Store) -> Ledger:
    """A ledger that remembers for the whole test who was served."""
    return ledger_of(store)


def accept(ledger: Ledger, *elders: str) -> None:
    """Queue one job for each, in this order; a job's request says which it is."""
    known = len(ledger.jobs(limit=0))
    numbered = enumerate(elders, known + 1)
    requests = [new_request(n, elder, job_id=f"job-{n}") for n, elder in numbered]
    for begin in range(0, len(requests), BATCH):
        ledger.accept(requests[begin : begin + BATCH])


def begin(ledger: Ledger) -> Lease:
    """Claim what must be there; say how long it took."""
    begun = time.perf_counter()
    lease = ledger.claim("w")
    milliseconds = (time.perf_counter() - begun) * 1000
    assert lease is not None
    print(f"claim of {lease.job.elder_id}: {milliseconds:.1f} ms")
    return lease


def serve(ledger: Ledger) -> str:
    """Run the next job to its end; whose was it?"""
    lease = begin(ledger)
    ledger.finish(lease, "succeeded")
    return lease.job.elder_id


def job_of(ledger: Ledger, elder: str) -> Job:
    """An elder's newest job."""
    return ledger.jobs(elder_id=elder, limit=1)[0]


# -- one elder's flood ------------------------------------------------------------------------


def test_one_job_behind_ten_thousand_of_another_elder_is_the_second_to_begin(
    ledger: Ledger,
) -> None:
    accept(ledger, *["FLOOD"] * MANY, "ONE")
    assert [serve(ledger) for _ in range(3)] == ["FLOOD", "ONE", "FLOOD"]


def test_who_comes_while_the_flood_is_served_is_next(ledger: Ledger) -> None:
    accept(ledger, *["FLOOD"] * 5)
    running = begin(ledger)
    accept(ledger, "ONE")
    ledger.finish(running, "succeeded")
    assert [serve(ledger), serve(ledger)] == ["ONE", "FLOOD"]


def test_several_floods_take_turns(ledger: Ledger) -> None:
    accept(ledger, *["A"] * 4, *["B"] * 3, *["C"] * 2)
    assert "".join(serve(ledger) for _ in range(9)) == "ABCABCABA"


def test_jobs_of_one_elder_still_begin_in_their_order(ledger: Ledger) -> None:
    accept(ledger, "A", "B", "A", "B", "A")
    begun = []
    for _ in range(5):
        lease = begin(ledger)
        begun.append((lease.job.elder_id, lease.job.request_id))
        ledger.finish(lease, "succeeded")
    assert [r for e, r in begun if e == "A"] == ["event-1", "event-3", "event-5"]
    assert [r for e, r in begun if e == "B"] == ["event-2", "event-4"]


def test_flood_gets_its_turn_again_however_many_others_come(
    store: Store, pass_time: Callable[[float], None]
) -> None:
    ledger = ledger_of(store, SHORT_S)
    accept(ledger, *["FLOOD"] * 3)
    assert serve(ledger) == "FLOOD"
    accept(ledger, "NEW1", "NEW2", "NEW3")
    assert serve(ledger) == "NEW1", "the flood's elder was served lately"
    pass_time(SHORT_S * 1.1)
    assert serve(ledger) == "FLOOD", "nobody was served lately: the oldest job is its"
    assert serve(ledger) == "NEW2"


def test_long_job_counts_from_its_last_sign_of_life(
    store: Store, pass_time: Callable[[float], None]
) -> None:
    """Otherwise a flood of jobs longer than the interval would let nobody in."""
    ledger = ledger_of(store, SHORT_S)
    accept(ledger, "LONG", "LONG", "ONE")
    lease = begin(ledger)
    pass_time(SHORT_S * 1.1)
    ledger.heartbeat(lease)
    ledger.finish(lease, "succeeded")
    assert serve(ledger) == "ONE"


def test_job_given_back_keeps_its_place(ledger: Ledger) -> None:
    """A worker that is stopped gives back a job half done; its elder's turn is not over."""
    accept(ledger, "A", "B")
    ledger.release(begin(ledger), wait_s=0, count_attempt=False)
    assert [serve(ledger), serve(ledger)] == ["A", "B"]


# -- one urgent elder -------------------------------------------------------------------------


def test_prioritized_job_behind_ten_thousand_elders_is_the_next_to_begin(ledger: Ledger) -> None:
    accept(ledger, *(f"E{n}" for n in range(MANY)), "URGENT")
    ledger.prioritize(job_of(ledger, "URGENT").id)
    assert [serve(ledger) for _ in range(3)] == ["URGENT", "E0", "E1"]


def test_elders_earlier_jobs_go_before_its_prioritized_one(ledger: Ledger) -> None:
    accept(ledger, "A", "B", "U", "U", "U")
    second = ledger.jobs(elder_id="U")[1]
    assert ledger.prioritize(second.id).urgent
    assert [serve(ledger) for _ in range(5)] == ["U", "U", "A", "B", "U"]


def test_urgent_elders_take_turns_too(ledger: Ledger) -> None:
    accept(ledger, "A", "U", "U", "V")
    for elder in ("U", "V"):
        ledger.prioritize(job_of(ledger, elder).id)
    assert "".join(serve(ledger) for _ in range(4)) == "UVUA"


def test_prioritizing_twice_or_while_it_runs_is_prioritizing_once(ledger: Ledger) -> None:
    accept(ledger, "A", "U", "U")
    job = ledger.jobs(elder_id="U")[1]
    for _ in range(2):
        assert ledger.prioritize(job.id).status == "queued"
    lease = begin(ledger)
    assert lease.job.id == job.id and lease.job.urgent
    assert ledger.prioritize(job.id).status == "running"
    ledger.finish(lease, "succeeded")
    assert [serve(ledger), serve(ledger)] == ["A", "U"], "the elder's next job is not urgent"


def test_ended_or_unknown_job_cannot_be_prioritized(ledger: Ledger) -> None:
    accept(ledger, "A")
    serve(ledger)
    with pytest.raises(JobAlreadyEnded):
        ledger.prioritize(job_of(ledger, "A").id)
    with pytest.raises(UnknownJob):
        ledger.prioritize("nobody_1")


def test_urgent_job_that_backs_off_lets_others_in(ledger: Ledger) -> None:
    accept(ledger, "A", "U")
    ledger.prioritize(job_of(ledger, "U").id)
    ledger.release(begin(ledger), wait_s=60, count_attempt=True)
    assert serve(ledger) == "A"
    assert ledger.claim("w") is None
