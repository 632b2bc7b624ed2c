"""The heartbeat: renews the lease, reports progress, and stops work that must not go on."""

import threading

import pytest

from config.settings import WorkerSettings
from consumers.workers.heartbeat import JobWatch
from pipeline.jobs.job_progress import Watch
from pipeline.ledger.leases import Lease
from pipeline.ledger.progress import ProgressState
from schemas.errors import (
    JobCancelled,
    LeaseLost,
    ModelServerError,
    StoreUnavailable,
)
from tests.fakes.jobs import make_job
from tests.unit.consumers.workers.worker_bench import (
    LIMIT_S,
    SETTINGS,
    ListingLedger,
    raising,
    run_job,
    sample,
    until_stopped,
)


def test_lost_lease_stops_the_work_and_nothing_is_written() -> None:
    ledger = ListingLedger(make_job())
    ledger.on_beat = raising(LeaseLost())
    metrics = run_job(ledger, until_stopped)
    assert (ledger.ended, ledger.released) == ([], [])
    assert sample(metrics, "lease_losses_total") == 1


def test_lease_that_could_not_be_renewed_in_time_counts_as_lost() -> None:
    """MongoDB is gone for longer than the lease lasts: another worker may have the job."""
    ledger = ListingLedger(make_job())
    ledger.on_beat = raising(StoreUnavailable())
    metrics = run_job(ledger, until_stopped)
    assert ledger.ended == []
    assert ledger.beats > 1
    assert sample(metrics, "lease_losses_total") == 1


def test_process_that_slept_past_its_lease_stops_before_its_heart_has_beaten() -> None:
    """As after SIGSTOP and SIGCONT: no heartbeat has told it yet."""
    ledger = ListingLedger(make_job())
    slow = SETTINGS.model_copy(update={"heartbeat_s": LIMIT_S})
    watch = JobWatch(ledger, Lease(job=make_job(), fence=1, owner="me"), slow, threading.Event())  # type: ignore[arg-type]
    watch.check()
    threading.Event().wait(SETTINGS.lease_s)
    with pytest.raises(LeaseLost):
        watch.check()


def test_cancelled_job_stops_and_ends_as_cancelled() -> None:
    ledger = ListingLedger(make_job())
    ledger.on_beat = raising(JobCancelled())
    run_job(ledger, until_stopped)
    assert (ledger.ended, ledger.released) == ([("cancelled", "cancelled")], [])


def test_lease_of_a_cancelled_job_is_renewed_until_its_work_has_stopped() -> None:
    """A training process that still loads its base may need longer than a lease to stop.

    Otherwise another worker begins the job again, is told the same, and so on to the last attempt.
    """
    ledger = ListingLedger(make_job())
    renewed_on = threading.Event()

    def beat() -> None:
        if ledger.beats >= 4:
            renewed_on.set()
        raise JobCancelled

    def work(watch: Watch) -> None:
        try:
            until_stopped(watch)
        finally:
            assert renewed_on.wait(LIMIT_S), "its heart stopped while the work was stopping"

    ledger.on_beat = beat
    run_job(ledger, work)
    assert (ledger.ended, ledger.released) == ([("cancelled", "cancelled")], [])


@pytest.mark.parametrize("verdict", [JobCancelled(), LeaseLost()])
def test_what_comes_after_the_work_does_not_change_its_end(verdict: ModelServerError) -> None:
    """The version was released by then; whether the lease still holds, the ledger knows."""
    ledger, stop = ListingLedger(make_job()), threading.Event()
    seen = threading.Event()

    def beat() -> None:
        seen.set()
        raise verdict

    def work(watch: Watch) -> None:
        assert seen.wait(LIMIT_S)
        stop.set()

    ledger.on_beat = beat
    run_job(ledger, work, stop)
    assert (ledger.ended, ledger.released) == ([("succeeded", None)], [])


def test_each_new_stage_is_reported_at_once_and_the_rest_now_and_then() -> None:
    ledger = ListingLedger()
    job = make_job()
    watch = JobWatch(
        ledger,  # type: ignore[arg-type]
        Lease(job=job, fence=1, owner="me"),
        WorkerSettings(progress_interval_s=3600),
        threading.Event(),
    )
    for stage, progress in (("preparing", 0), ("training", 5), ("training", 6), ("training", 7)):
        watch.report(ProgressState.model_validate({"stage": stage, "progress": progress}))
    assert [(s.stage, s.progress) for s in ledger.reports] == [("preparing", 0), ("training", 5)]


def test_heart_beats_while_the_work_goes_on_and_stops_with_it() -> None:
    ledger = ListingLedger(make_job())

    enough = threading.Event()
    ledger.on_beat = lambda: enough.set() if ledger.beats >= 3 else None

    def work(watch: Watch) -> None:
        assert enough.wait(LIMIT_S)

    run_job(ledger, work)
    assert not any(t.name == "heartbeat" and t.is_alive() for t in threading.enumerate())
