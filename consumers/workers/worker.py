"""The training worker: claims jobs from the ledger and runs them, one at a time.

A thread renews the lease while the job runs. Whatever ends the work early (the lease is lost,
the job is cancelled, the program stops) is raised in the job's own thread at its next step.
"""

import threading
import time
from collections.abc import Callable

import structlog

from config.metrics import Metrics
from config.settings import WorkerSettings
from consumers.kafka.backoff import backoff_s
from consumers.kafka.faults import describe_fault
from pipeline.jobs.trainer import OllamaTrainer
from pipeline.ledger.ledger import Lease, Ledger
from pipeline.ledger.progress import ProgressState
from pipeline.versions.retention import Removal
from schemas.documents import Job
from schemas.errors import (
    ArtefactCorrupt,
    FatalError,
    HostFailed,
    InternalError,
    JobCancelled,
    LeaseLost,
    ModelNotReady,
    ModelServerError,
    RejectError,
    RetryError,
    Stopped,
    TrainingFailed,
    TrainingKilled,
    TrainingOutOfMemory,
)
from schemas.events import ErrorBody, ModelReady, Stage, Status

_LONGEST_WAIT_S = 30.0

log = structlog.get_logger(__name__)


class JobWatch:
    """Holds a lease while its job runs: renews it, and passes on what must stop the work."""

    def __init__(
        self, ledger: Ledger, lease: Lease, settings: WorkerSettings, stop: threading.Event
    ) -> None:
        self._ledger = ledger
        self._lease = lease
        self._settings = settings
        self._stop = stop
        self._ended = threading.Event()
        self._verdict: ModelServerError | None = None
        self._stage: Stage | None = None
        self._next_report = 0.0
        self._renewed = time.monotonic()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "JobWatch":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Raise what must stop the work: LeaseLost, JobCancelled or Stopped.

        A process that was stopped and goes on past its lease sees it here at once, by its own
        clock: its heartbeat has not been heard of it yet.
        """
        if time.monotonic() - self._renewed > self._settings.lease_s:
            self._verdict = self._verdict or LeaseLost()
        if self._verdict is not None:
            raise self._verdict
        if self._stop.is_set():
            raise Stopped

    def report(self, state: ProgressState) -> None:
        """Store progress: each new stage at once, the rest as often as is set."""
        now = time.monotonic()
        if state.stage == self._stage and now < self._next_report:
            return
        self._stage = state.stage
        self._next_report = now + self._settings.progress_interval_s
        self._ledger.report(self._lease, state)

    def _beat(self) -> None:
        while not self._ended.wait(self._settings.heartbeat_s):
            asked = time.monotonic()
            try:
                self._ledger.heartbeat(self._lease)
                self._renewed = asked
            except RetryError as error:
                # MongoDB may be gone for a moment. By our own clock the lease is over after
                # `lease_s`: then another worker may have the job, and this one must stop.
                if time.monotonic() - self._renewed > self._settings.lease_s:
                    self._verdict = LeaseLost()
                    return
                log.warning("worker.heartbeat_waits", code=error.code)
            except JobCancelled as verdict:
                # Renewed all the same, and further on: the work may need longer than a lease to
                # stop, and until then nobody else may begin the job again.
                self._verdict, self._renewed = verdict, asked
            except LeaseLost as verdict:
                self._verdict = verdict
                return
            except Exception as error:  # the thread's edge: unforeseen means not renewed
                log.error("worker.heartbeat_failed", fault=describe_fault(error))
                self._verdict = LeaseLost()
                return


class StageClock:
    """Measures how long each stage takes."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._stage: Stage | None = None
        self._begun = 0.0

    def begin(self, stage: Stage) -> None:
        """Note that a stage begins, and with it that the one before has ended."""
        self.end()
        self._stage, self._begun = stage, time.monotonic()

    def end(self) -> None:
        """Note that the last stage has ended."""
        if self._stage is not None:
            seconds = time.monotonic() - self._begun
            self._metrics.stage_seconds.labels(self._stage).observe(seconds)
            self._stage = None


class TrainingWorker:
    """Claims and runs jobs until it is told to stop."""

    def __init__(
        self,
        owner: str,
        ledger: Ledger,
        trainer: OllamaTrainer,
        stages: StageClock,
        settings: WorkerSettings,
        metrics: Metrics,
        *,
        prune: Callable[[str], Removal | None] = lambda elder_id: None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`prune` removes, after a job, what an elder's earlier ones left and nobody needs."""
        self._owner = owner
        self._ledger = ledger
        self._trainer = trainer
        self._stages = stages
        self._settings = settings
        self._metrics = metrics
        self._prune = prune
        self._wall_clock = wall_clock
        self._wake = threading.Event()

    def wake(self) -> None:
        """Look for work now rather than at the next round."""
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; a job under way is given back with its checkpoint."""
        attempt = 0
        while not stop.is_set():
            try:
                worked = self.run_once(stop)
                attempt = 0
            except RetryError as error:
                attempt += 1
                log.warning("worker.waits", code=error.code)
                stop.wait(backoff_s(attempt))
                continue
            except Exception as error:  # the worker's edge: no silent end
                attempt += 1
                log.error("worker.fault", fault=describe_fault(error))
                stop.wait(backoff_s(attempt))
                continue
            if not worked:
                self._wake.wait(self._settings.poll_s)
                self._wake.clear()

    def run_once(self, stop: threading.Event) -> bool:
        """Claim and run one job; False where there was none."""
        self._metrics.jobs_queued.set(self._ledger.count("queued"))
        lease = self._ledger.claim(self._owner)
        if lease is None:
            return False
        with structlog.contextvars.bound_contextvars(
            job_id=lease.job.id, attempt=lease.job.attempt, fence=lease.fence
        ):
            log.info("job.claimed", elder_id=lease.job.elder_id)
            with self._metrics.jobs_in_progress.track_inprogress():
                self._run(lease, stop)
            self._stages.end()
            if not stop.is_set():
                self._tidy(lease.job.elder_id)
        return True

    def _run(self, lease: Lease, stop: threading.Event) -> None:
        try:
            self._refuse(lease.job)
            with JobWatch(self._ledger, lease, self._settings, stop) as watch:
                ready = self._trainer.run(lease.job, watch)
                self._finish(lease, "succeeded", ready=ready)
            self._metrics.last_success.set(self._wall_clock())
        except LeaseLost:
            self._metrics.lease_losses.inc()
            log.warning("job.lease_lost")
        except JobCancelled as error:
            self._finish(lease, "cancelled", error=error)
        except Stopped:
            log.info("job.given_back")
            self._release(lease, wait_s=0, count_attempt=False)
        except TrainingKilled as error:
            # As if this worker had been: unless all of it is to stop, the lease runs out, and who
            # claims the job next counts one that was lost.
            log.warning("job.training_killed", code=error.code)
            if stop.is_set():
                self._release(lease, wait_s=0, count_attempt=False)
        except RetryError as error:
            # The work waits for what is down; that is no attempt of the job's.
            wait_s = self._wait_s(lease.job)
            log.warning("job.waits", code=error.code, reason=error.message, wait_s=wait_s)
            self._release(lease, wait_s=wait_s, count_attempt=False)
        except TrainingOutOfMemory as error:
            self._fail(lease, error)  # The smallest batch was tried: another attempt is no other.
        except (TrainingFailed, ArtefactCorrupt, ModelNotReady, HostFailed) as error:
            # A damaged file was set aside, a model vanished from its host under our hands, or the
            # host fails at this model alone: the next attempt makes it again.
            self._retry_or_fail(lease, error)
        except (RejectError, FatalError) as error:
            self._fail(lease, error)
        except Exception as error:  # the worker's edge: a bug fails a job, never the worker
            log.error("job.fault", fault=describe_fault(error))
            self._retry_or_fail(lease, InternalError())

    def _refuse(self, job: Job) -> None:
        """Raise what ends a job before its work begins, unless a version of it answers already."""
        lost = job.lost_leases
        is_hopeless = lost > self._settings.max_lost_leases
        if not (job.cancel_requested or is_hopeless) or self._trainer.fence_off(job) is not None:
            return
        if job.cancel_requested:
            raise JobCancelled
        raise TrainingFailed(f"given up: {lost} workers were lost over this job; see their logs")

    def _wait_s(self, job: Job) -> float:
        """Twice as long each time that the job was given back, up to half a minute."""
        given_back = min(job.fence - job.attempt, 10)
        return min(self._settings.retry_base_s * 2.0**given_back, _LONGEST_WAIT_S)

    def _retry_or_fail(self, lease: Lease, error: RejectError) -> None:
        failures = lease.job.failures
        if failures + 1 >= self._settings.max_attempts:
            self._fail(lease, error)
            return
        wait_s = self._settings.retry_base_s * 2**failures
        log.warning("job.tried_again", code=error.code, reason=error.message, wait_s=wait_s)
        self._release(lease, wait_s=wait_s, count_attempt=True)

    def _fail(self, lease: Lease, error: ModelServerError) -> None:
        if lease.job.kind == "form" and self._trainer.fence_off(lease.job) is not None:
            # An earlier holder, held up until now, has let the version answer: the job succeeded.
            self._release(lease, wait_s=0, count_attempt=False)
            return
        self._finish(lease, "failed", error=error)

    def _finish(
        self,
        lease: Lease,
        status: Status,
        *,
        error: ModelServerError | None = None,
        ready: ModelReady | None = None,
    ) -> None:
        body = ErrorBody(code=error.code, message=error.message) if error else None
        try:
            self._insist(lambda: self._ledger.finish(lease, status, error=body, ready=ready))
        except LeaseLost:
            self._metrics.lease_losses.inc()
            log.warning("job.lease_lost")
            return
        self._metrics.jobs.labels(status).inc()
        log.info("job.ended", status=status, code=error.code if error else None)

    def _release(self, lease: Lease, *, wait_s: float, count_attempt: bool) -> None:
        try:
            self._insist(
                lambda: self._ledger.release(lease, wait_s=wait_s, count_attempt=count_attempt)
            )
        except LeaseLost:
            log.warning("job.lease_lost")

    def _tidy(self, elder_id: str) -> None:
        """Remove what nobody needs any more; what fails here is done after the next job."""
        try:
            removal = self._prune(elder_id)
        except (ModelServerError, OSError) as error:
            reason = error.code if isinstance(error, ModelServerError) else type(error).__name__
            self._metrics.retention_failures.labels(reason).inc()
            log.warning("retention.broken_off", reason=reason)
            return
        if removal is not None:
            counts = removal.counts()
            for kind, count in counts.items():
                self._metrics.retention_removed.labels(kind).inc(count)
            log.info("retention.removed", elder_id=elder_id, **counts)

    def _insist(self, write: Callable[[], object]) -> None:
        """Try a write a few times; after that the lease runs out and another worker goes on."""
        for attempt in range(1, 5):
            try:
                write()
                return
            except RetryError:
                time.sleep(backoff_s(attempt))
        raise LeaseLost
