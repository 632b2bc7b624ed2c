"""Claims and leases: a job is held by one worker, and by the next one when that is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import pytest

from pipeline.ledger.events import Announcer
from pipeline.ledger.leases import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.progress import ProgressState
from pipeline.storage.mongo import Store
from schemas.errors import LeaseLost
from tests.contract.pipeline.ledger.requests import FAIR_S, SECONDS, claimed, request
from tests.fakes.clock import FalseClock
from tests.fakes.jobs import make_ready
from tests.waiting import wait_for

WaitUntil = Callable[[Callable[[], object], str], None]
SHORT_S = 0.15


@pytest.fixture
def wait_until(clock: FalseClock | None) -> WaitUntil:
    """Waits for a condition, on the false clock where there is one; fails with its name."""
    return partial(wait_for, pause=clock.advance if clock else None)


@pytest.fixture
def hasty(store: Store) -> Ledger:
    """A ledger over the same store whose leases end at once."""
    return Ledger(store, Announcer(lambda: datetime.now(UTC), "en"), lease_s=SHORT_S, fair_s=FAIR_S)


def taken_over(ledger: Ledger, wait_until: WaitUntil, owner: str = "b") -> Lease:
    """Claim a job once its lease has run out."""
    found: list[Lease] = []

    def claim() -> bool:
        if (lease := ledger.claim(owner)) is not None:
            found.append(lease)
        return bool(found)

    wait_until(claim, "the expired job is taken over")
    return found[0]


def test_of_many_workers_one_gets_the_job(ledger: Ledger) -> None:
    ledger.accept([request(1)])
    won: list[Lease] = []
    begin = threading.Barrier(6)

    def work(name: str) -> None:
        begin.wait()
        if (lease := ledger.claim(name)) is not None:
            won.append(lease)

    workers = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(won) == 1
    job = ledger.get(won[0].job.id)
    assert (job.status, job.attempt, job.fence, job.owner) == ("running", 1, 1, won[0].owner)


def test_jobs_of_one_elder_run_one_at_a_time_in_order(ledger: Ledger) -> None:
    ledger.accept([request(3), request(1), request(2)])
    order = []
    for _ in range(3):
        lease = claimed(ledger)
        assert ledger.claim("other") is None, "a second job of the elder must wait"
        order.append(lease.job.request_id)
        ledger.finish(lease, "succeeded")
    assert order == ["event-1", "event-2", "event-3"]


def test_another_elders_job_runs_beside(ledger: Ledger) -> None:
    ledger.accept([request(1), request(2), request(3, "ZJG")])
    assert {claimed(ledger).job.elder_id, claimed(ledger).job.elder_id} == {"LXM", "ZJG"}
    assert ledger.claim("c") is None


def test_released_job_keeps_its_place_before_later_ones(ledger: Ledger) -> None:
    ledger.accept([request(1), request(2)])
    ledger.release(claimed(ledger), wait_s=0, count_attempt=False)
    again = claimed(ledger)
    assert (again.job.request_id, again.job.attempt, again.fence) == ("event-1", 1, 2)


def test_elder_whose_job_backs_off_waits_with_all_jobs(ledger: Ledger) -> None:
    ledger.accept([request(1), request(2), request(3, "ZJG")])
    ledger.release(claimed(ledger), wait_s=60, count_attempt=True)
    assert claimed(ledger).job.elder_id == "ZJG"
    assert ledger.claim("a") is None


def test_backed_off_job_comes_again_and_its_attempt_counts(
    ledger: Ledger, wait_until: WaitUntil
) -> None:
    ledger.accept([request(1)])
    ledger.release(claimed(ledger), wait_s=SHORT_S, count_attempt=True)
    again = taken_over(ledger, wait_until)
    assert (again.job.attempt, again.fence) == (2, 2)


def test_only_what_a_worker_reports_counts_as_a_failure(
    ledger: Ledger, hasty: Ledger, wait_until: WaitUntil
) -> None:
    """A worker that is killed reports nothing; a job given back is as if it had not begun."""
    ledger.accept([request(1)])
    ledger.release(claimed(ledger), wait_s=0, count_attempt=True)
    claimed(hasty)
    lease = taken_over(ledger, wait_until)
    assert (lease.job.attempt, lease.job.failures) == (3, 1)
    ledger.release(lease, wait_s=0, count_attempt=False)
    ledger.release(claimed(ledger), wait_s=0, count_attempt=True)
    job = ledger.get(lease.job.id)
    assert (job.attempt, job.failures) == (3, 2)


def test_failures_of_a_job_from_before_they_were_counted_are_counted_from_now_on(
    ledger: Ledger, store: Store
) -> None:
    ledger.accept([request(1)])
    store["jobs"].update_one({"_id": f"LXM_{SECONDS}"}, {"$unset": {"failures": ""}})
    lease = claimed(ledger)
    assert lease.job.failures == 0
    ledger.release(lease, wait_s=0, count_attempt=True)
    assert ledger.get(lease.job.id).failures == 1


def test_expired_lease_is_taken_over_with_a_higher_fence(
    ledger: Ledger, hasty: Ledger, wait_until: WaitUntil
) -> None:
    ledger.accept([request(1)])
    first = claimed(hasty, "a")
    second = taken_over(ledger, wait_until)
    assert (second.job.id, second.fence, second.job.attempt) == (first.job.id, first.fence + 1, 2)


def test_zombie_can_write_nothing(
    ledger: Ledger, hasty: Ledger, store: Store, wait_until: WaitUntil
) -> None:
    ledger.accept([request(1)])
    zombie = claimed(hasty, "a")
    holder = taken_over(ledger, wait_until)
    before = store["jobs"].find_one({"_id": holder.job.id})
    writes: list[Callable[[], object]] = [
        lambda: hasty.heartbeat(zombie),
        lambda: hasty.report(zombie, ProgressState(stage="training", progress=50)),
        lambda: hasty.release(zombie, wait_s=0, count_attempt=False),
        lambda: hasty.finish(zombie, "succeeded", ready=make_ready(zombie.job)),
        lambda: hasty.finish(zombie, "failed"),
    ]
    for write in writes:
        with pytest.raises(LeaseLost):
            write()
    assert store["jobs"].find_one({"_id": holder.job.id}) == before


def test_heartbeat_renews_the_lease(ledger: Ledger, store: Store) -> None:
    ledger.accept([request(1)])
    lease = claimed(ledger)
    ends = [store["jobs"].find_one({"_id": lease.job.id})["lease_until"]]  # type: ignore[index]
    ledger.heartbeat(lease)
    ends.append(store["jobs"].find_one({"_id": lease.job.id})["lease_until"])  # type: ignore[index]
    assert ends[0] < ends[1]
    assert ledger.claim("b") is None


def test_lease_that_still_runs_is_not_taken(ledger: Ledger) -> None:
    ledger.accept([request(1)])
    claimed(ledger, "a")
    assert ledger.claim("b") is None
