"""The worker: every end of a job's work, and what the ledger is told of it."""

import threading
from collections.abc import Callable

import pytest

from config.metrics import Metrics
from config.settings import WorkerSettings
from consumers.workers.worker import JobWatch, StageClock, TrainingWorker
from pipeline.jobs.trainer import Watch
from pipeline.ledger.leases import Lease
from pipeline.ledger.progress import ProgressState
from pipeline.versions.retention import Removal
from schemas.documents import Job, ModelVersion
from schemas.errors import (
    ArtefactCorrupt,
    ConfigurationError,
    EvaluationFailed,
    JobCancelled,
    LeaseLost,
    ModelNotReady,
    ModelServerError,
    NoAnswers,
    OllamaUnavailable,
    Stopped,
    StoreUnavailable,
    TrainingFailed,
    TrainingKilled,
)
from schemas.events import ErrorBody, ModelReady
from tests.fakes.parts import NOW, make_job, make_ready

SETTINGS = WorkerSettings(
    lease_s=0.2,
    heartbeat_s=0.01,
    poll_s=0.01,
    max_attempts=3,
    max_lost_leases=9,
    retry_base_s=4,
)
LIMIT_S = 10.0
READY = make_ready(make_job())
RELEASED = ModelVersion(
    version=1,
    job_id=READY.job_id,
    fence=1,
    ready=True,
    tag=READY.tag,
    base_model="b",
    method="lora",
    recipe_sha256="a" * 64,
    dataset_sha256="b" * 64,
    created_at=NOW,
)


class ListingLedger:
    """Gives out the jobs it has and lists what is said about them."""

    def __init__(self, *jobs: Job) -> None:
        self.waiting = list(jobs)
        self.ended: list[tuple[str, str | None]] = []
        self.reason: str | None = None
        self.released: list[tuple[float, bool]] = []
        self.reports: list[ProgressState] = []
        self.beats = 0
        self.on_beat: Callable[[], None] = lambda: None
        self.on_claim: Callable[[], None] = lambda: None
        self.on_finish: list[Exception] = []

    def count(self, status: str) -> int:
        return len(self.waiting)

    def claim(self, owner: str) -> Lease | None:
        self.on_claim()
        if not self.waiting:
            return None
        job = self.waiting.pop(0)
        return Lease(job=job, fence=job.fence, owner=owner)

    def heartbeat(self, lease: Lease) -> None:
        self.beats += 1
        self.on_beat()

    def report(self, lease: Lease, state: ProgressState) -> None:
        self.reports.append(state)

    def finish(
        self,
        lease: Lease,
        status: str,
        *,
        error: ErrorBody | None = None,
        ready: ModelReady | None = None,
    ) -> None:
        if self.on_finish:
            raise self.on_finish.pop(0)
        self.ended.append((status, error.code if error else None))
        self.reason = error.message if error else None

    def release(self, lease: Lease, *, wait_s: float, count_attempt: bool) -> None:
        self.released.append((wait_s, count_attempt))


class Trainer:
    """Does with a job what a function does."""

    def __init__(
        self,
        act: Callable[[Watch], None] = lambda watch: None,
        released: ModelVersion | None = None,
    ) -> None:
        self._act = act
        self._released = released

    def fence_off(self, job: Job) -> ModelVersion | None:
        return self._released

    def run(self, job: Job, watch: Watch) -> ModelReady:
        self._act(watch)
        return READY


def until_stopped(watch: Watch) -> None:
    """Work until something stops it, as training does at each step."""
    pause = threading.Event()
    for _ in range(int(LIMIT_S / 0.005)):
        watch.check()
        pause.wait(0.005)
    pytest.fail("nothing stopped the work")


def run_job(
    ledger: ListingLedger,
    act: Callable[[Watch], None] = lambda watch: None,
    stop: threading.Event | None = None,
    metrics: Metrics | None = None,
    prune: Callable[[str], Removal | None] = lambda elder_id: None,
    released: ModelVersion | None = None,
) -> Metrics:
    metrics = metrics or Metrics()
    worker = TrainingWorker(
        "me",
        ledger,  # type: ignore[arg-type]
        Trainer(act, released),  # type: ignore[arg-type]
        StageClock(metrics),
        SETTINGS,
        metrics,
        prune=prune,
        wall_clock=lambda: 123.0,
    )
    assert worker.run_once(stop or threading.Event())
    return metrics


def raising(error: Exception) -> Callable[..., None]:
    def act(*_: object) -> None:
        raise error

    return act


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"modelserver_{name}", labels) or 0.0


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


def test_model_that_vanished_from_ollama_under_a_job_is_made_again() -> None:
    ledger = ListingLedger(make_job())
    run_job(ledger, raising(ModelNotReady()))
    assert (ledger.ended, ledger.released) == ([], [(SETTINGS.retry_base_s, True)])


def test_stop_gives_the_job_back_at_once_and_counts_no_attempt() -> None:
    ledger, stop = ListingLedger(make_job()), threading.Event()
    stop.set()
    run_job(ledger, until_stopped, stop)
    assert (ledger.ended, ledger.released) == ([], [(0, False)])


def test_end_is_written_again_when_the_store_is_away_for_a_moment() -> None:
    ledger = ListingLedger(make_job())
    ledger.on_finish = [StoreUnavailable()]
    run_job(ledger)
    assert ledger.ended == [("succeeded", None)]


def test_end_that_the_fence_refuses_is_no_end() -> None:
    ledger = ListingLedger(make_job())
    ledger.on_finish = [LeaseLost()]
    metrics = run_job(ledger)
    assert ledger.ended == []
    assert sample(metrics, "training_jobs_total", outcome="succeeded") == 0


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


def test_damaged_artefact_is_made_again_and_fails_the_job_only_at_the_last_attempt() -> None:
    last = make_job(attempt=SETTINGS.max_attempts, failures=SETTINGS.max_attempts - 1)
    ledger = ListingLedger(make_job(), last)

    def act(watch: Watch) -> None:
        raise ArtefactCorrupt

    run_job(ledger, act)
    assert (ledger.released, ledger.ended) == ([(SETTINGS.retry_base_s, True)], [])
    run_job(ledger, act)
    assert ledger.ended == [("failed", "artefact_corrupt")]


def test_after_a_job_its_elder_is_tidied_and_a_failure_there_changes_no_end() -> None:
    tidied: list[str] = []

    def prune(elder_id: str) -> Removal | None:
        tidied.append(elder_id)
        if len(tidied) > 1:
            raise StoreUnavailable if len(tidied) == 2 else PermissionError
        return Removal(elder_id=elder_id, current=1, versions=(1, 2), tags=("t",), items=())

    ledger = ListingLedger(make_job(), make_job(), make_job())
    metrics = Metrics()
    for _ in range(3):
        run_job(ledger, metrics=metrics, prune=prune)
    assert tidied == ["LXM"] * 3
    assert [status for status, _ in ledger.ended] == ["succeeded"] * 3
    assert metrics.retention_removed.labels("version")._value.get() == 2
    assert metrics.retention_failures.labels("store_unavailable")._value.get() == 1
    assert metrics.retention_failures.labels("PermissionError")._value.get() == 1


def test_program_that_stops_does_not_stay_to_tidy() -> None:
    stop = threading.Event()
    stop.set()
    tidied: list[str] = []
    run_job(ListingLedger(make_job()), until_stopped, stop, prune=tidied.append)
    assert tidied == []
