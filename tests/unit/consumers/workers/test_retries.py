"""What a failure costs a job: another attempt, a wait, or its end."""

import threading

import pytest

from pipeline.jobs.job_progress import Watch
from schemas.errors import (
    ArtefactCorrupt,
    ModelNotReady,
    ModelServerError,
    OllamaUnavailable,
    StoreUnavailable,
    TrainingFailed,
    TrainingKilled,
)
from tests.fakes.jobs import make_job
from tests.unit.consumers.workers.worker_bench import SETTINGS, ListingLedger, raising, run_job


@pytest.mark.parametrize(("failures", "wait_s"), [(0, 4), (1, 8)])
def test_failed_training_is_tried_again_later(failures: int, wait_s: float) -> None:
    ledger = ListingLedger(make_job(attempt=failures + 1, failures=failures))
    run_job(ledger, raising(TrainingFailed()))
    assert (ledger.ended, ledger.released) == ([], [(wait_s, True)])


def test_training_that_failed_at_the_last_attempt_fails_the_job() -> None:
    ledger = ListingLedger(make_job(attempt=3, failures=2))
    run_job(ledger, raising(TrainingFailed()))
    assert (ledger.ended, ledger.released) == ([("failed", "training_failed")], [])


@pytest.mark.parametrize("lost", [1, 3, 9])
def test_killed_workers_change_neither_the_end_of_a_job_nor_its_waits(lost: int) -> None:
    """kill -9, as often as somebody likes: it is no failure of the job's."""
    ledger = ListingLedger(*(make_job(attempt=1 + lost) for _ in range(2)))
    run_job(ledger)
    assert (ledger.ended, ledger.released) == ([("succeeded", None)], [])
    run_job(ledger, raising(TrainingFailed()))
    assert ledger.released == [(SETTINGS.retry_base_s, True)]


def test_killed_training_process_leaves_the_job_to_its_lease() -> None:
    """Whoever claims it next counts a lost worker, and no failure."""
    ledger = ListingLedger(make_job(attempt=3, failures=2))
    run_job(ledger, raising(TrainingKilled()))
    assert (ledger.ended, ledger.released) == ([], [])


def test_killed_training_process_of_a_worker_that_stops_gives_the_job_back() -> None:
    """SIGTERM reaches both where a service manager sends it to the whole group."""
    ledger, stop = ListingLedger(make_job()), threading.Event()

    def killed_with_the_service(watch: Watch) -> None:
        stop.set()
        raise TrainingKilled

    run_job(ledger, killed_with_the_service, stop)
    assert (ledger.ended, ledger.released) == ([], [(0, False)])


def test_job_under_which_worker_after_worker_dies_is_not_tried_for_ever() -> None:
    """What kills the whole process leaves nobody to report a failure."""
    ledger = ListingLedger(make_job(attempt=13, failures=2))
    run_job(ledger, lambda watch: pytest.fail("must not be tried again"))
    assert ledger.ended == [("failed", "training_failed")]
    assert ledger.reason is not None and "10 workers" in ledger.reason


def test_bug_is_tried_again_and_then_fails_the_job_without_its_text() -> None:
    for failures, (ended, released) in {
        0: ([], [(4, True)]),
        2: ([("failed", "internal_error")], []),
    }.items():
        ledger = ListingLedger(make_job(attempt=3, failures=failures))
        run_job(ledger, raising(KeyError("words")))
        assert (ledger.ended, ledger.released) == (ended, released)


@pytest.mark.parametrize("error", [OllamaUnavailable(), StoreUnavailable()])
def test_dependency_that_is_down_costs_no_attempt(error: ModelServerError) -> None:
    ledger = ListingLedger(make_job(attempt=3, failures=2, fence=3))
    run_job(ledger, raising(error))
    assert (ledger.ended, ledger.released) == ([], [(4, False)])


@pytest.mark.parametrize(("given_back", "wait_s"), [(1, 8), (2, 16), (3, 30), (2000, 30)])
def test_job_that_was_given_back_before_waits_longer(given_back: int, wait_s: float) -> None:
    ledger = ListingLedger(make_job(attempt=1, fence=1 + given_back))
    run_job(ledger, raising(OllamaUnavailable()))
    assert ledger.released == [(wait_s, False)]


def test_model_that_vanished_from_ollama_under_a_job_is_made_again() -> None:
    ledger = ListingLedger(make_job())
    run_job(ledger, raising(ModelNotReady()))
    assert (ledger.ended, ledger.released) == ([], [(SETTINGS.retry_base_s, True)])


def test_end_is_written_again_when_the_store_is_away_for_a_moment() -> None:
    ledger = ListingLedger(make_job())
    ledger.on_finish = [StoreUnavailable()]
    run_job(ledger)
    assert ledger.ended == [("succeeded", None)]


def test_damaged_artefact_is_made_again_and_fails_the_job_only_at_the_last_attempt() -> None:
    last = make_job(attempt=SETTINGS.max_attempts, failures=SETTINGS.max_attempts - 1)
    ledger = ListingLedger(make_job(), last)

    def act(watch: Watch) -> None:
        raise ArtefactCorrupt

    run_job(ledger, act)
    assert (ledger.released, ledger.ended) == ([(SETTINGS.retry_base_s, True)], [])
    run_job(ledger, act)
    assert ledger.ended == [("failed", "artefact_corrupt")]
