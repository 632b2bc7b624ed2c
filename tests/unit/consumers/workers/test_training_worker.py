"""The worker: how a job's work ends, and what the ledger is told of it."""

import threading

import pytest

from config.metrics import Metrics
from consumers.workers.stage_clock import StageClock
from consumers.workers.training_worker import TrainingWorker
from schemas.errors import (
    ConfigurationError,
    EvaluationFailed,
    LeaseLost,
    ModelServerError,
    NoAnswers,
    Stopped,
    StoreUnavailable,
)
from tests.fakes.jobs import make_job
from tests.unit.consumers.workers.worker_bench import (
    LIMIT_S,
    RELEASED,
    SETTINGS,
    ListingLedger,
    Trainer,
    raising,
    run_job,
    sample,
    until_stopped,
)


def test_done_work_ends_the_job_as_succeeded() -> None:
    ledger = ListingLedger(make_job())
    metrics = run_job(ledger)
    assert (ledger.ended, ledger.released) == ([("succeeded", None)], [])
    assert sample(metrics, "training_jobs_total", outcome="succeeded") == 1
    assert sample(metrics, "training_last_success_timestamp_seconds") == 123.0
    assert sample(metrics, "training_jobs_in_progress") == 0


@pytest.mark.parametrize("error", [NoAnswers(), EvaluationFailed(), ConfigurationError("no base")])
def test_work_that_cannot_be_done_fails_at_once_with_its_reason(error: ModelServerError) -> None:
    ledger = ListingLedger(make_job())
    run_job(ledger, raising(error))
    assert (ledger.ended, ledger.released) == ([("failed", error.code)], [])


def test_job_cancelled_before_its_claim_ends_before_any_work() -> None:
    """It could be done before the first heartbeat."""
    ledger = ListingLedger(make_job(cancel_requested=True))
    run_job(ledger, lambda watch: pytest.fail("must not begin"))
    assert (ledger.ended, ledger.released) == ([("cancelled", "cancelled")], [])


@pytest.mark.parametrize("fields", [{"cancel_requested": True}, {"attempt": 99}])
def test_job_whose_version_answers_already_ends_as_succeeded(fields: dict[str, object]) -> None:
    """Cancelled, or given up, after its worker died between the release and the end."""
    ledger = ListingLedger(make_job(**fields))
    run_job(ledger, released=RELEASED)
    assert (ledger.ended, ledger.released) == ([("succeeded", None)], [])


def test_stop_gives_the_job_back_at_once_and_counts_no_attempt() -> None:
    ledger, stop = ListingLedger(make_job()), threading.Event()
    stop.set()
    run_job(ledger, until_stopped, stop)
    assert (ledger.ended, ledger.released) == ([], [(0, False)])


def test_end_that_the_fence_refuses_is_no_end() -> None:
    ledger = ListingLedger(make_job())
    ledger.on_finish = [LeaseLost()]
    metrics = run_job(ledger)
    assert ledger.ended == []
    assert sample(metrics, "training_jobs_total", outcome="succeeded") == 0


def test_no_job_is_no_work() -> None:
    metrics = Metrics()
    worker = TrainingWorker(
        "me",
        ListingLedger(),  # type: ignore[arg-type]
        Trainer(),  # type: ignore[arg-type]
        StageClock(metrics),
        SETTINGS,
        metrics,
    )
    assert worker.run_once(threading.Event()) is False


@pytest.mark.parametrize("fault", [StoreUnavailable(), RuntimeError("unforeseen")])
def test_worker_outlives_a_ledger_that_fails(fault: Exception) -> None:
    """A thread that ended would leave the queue standing without a word."""
    ledger, stop = ListingLedger(make_job()), threading.Event()
    faults = [fault]

    def fail_once() -> None:
        if faults:
            raise faults.pop()
        if not ledger.waiting:
            stop.set()

    ledger.on_claim = fail_once
    metrics = Metrics()
    worker = TrainingWorker(
        "me",
        ledger,  # type: ignore[arg-type]
        Trainer(),  # type: ignore[arg-type]
        StageClock(metrics),
        SETTINGS,
        metrics,
    )
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert ledger.ended == [("succeeded", None)]


def test_stopped_is_no_failure() -> None:
    ledger = ListingLedger(make_job())
    run_job(ledger, raising(Stopped()))
    assert ledger.released == [(0, False)]
