"""The training worker: claims jobs from the ledger and runs them, one at a time.

The error that the work raises decides what happens to the job: it ends, is retried, or is released
for another worker.
"""

import threading
import time
from collections.abc import Callable

import structlog

from config.metrics import Metrics
from config.settings import WorkerSettings
from consumers.kafka.backoff import Backoff
from consumers.kafka.faults import describe_fault
from consumers.workers.heartbeat import JobWatch
from consumers.workers.stage_clock import StageClock
from pipeline.jobs.trainer import OllamaTrainer
from pipeline.ledger.leases import Lease
from pipeline.ledger.ledger import Ledger
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
from schemas.events import ErrorBody, ModelReady, Status

_LONGEST_WAIT_S = 30.0
_WRITE_TRIES = 4

log = structlog.get_logger(__name__)


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
        """`prune` removes, after each job, what retention allows of the job's elder."""
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
        """Look for a job now, without waiting for the next poll."""
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; a job under way is released and keeps its checkpoint."""
        backoff = Backoff()
        while not stop.is_set():
            try:
                worked = self.run_once(stop)
                backoff.reset()
            except RetryError as error:
                log.warning("worker.waits", code=error.code)
                backoff.wait(stop)
                continue
            except Exception as error:  # the worker's edge: it must not end silently
                log.error("worker.fault", fault=describe_fault(error))
                backoff.wait(stop)
                continue
            if not worked:
                self._wake.wait(self._settings.poll_s)
                self._wake.clear()

    def run_once(self, stop: threading.Event) -> bool:
        """Claim and run one job; False if none is queued. Raises StoreUnavailable."""
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
                self._remove_old(lease.job.elder_id)
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
            # Treated as if this worker had been killed: the lease runs out, and the next claim
            # counts a lost worker. If the whole process stops, the job is released at once.
            log.warning("job.training_killed", code=error.code)
            if stop.is_set():
                self._release(lease, wait_s=0, count_attempt=False)
        except RetryError as error:
            # A dependency is down; that does not count as an attempt of the job.
            wait_s = self._wait_s(lease.job)
            log.warning("job.waits", code=error.code, reason=error.message, wait_s=wait_s)
            self._release(lease, wait_s=wait_s, count_attempt=False)
        except TrainingOutOfMemory as error:
            self._fail(lease, error)  # Even the smallest batch did not fit: no retry helps.
        except (TrainingFailed, ArtefactCorrupt, ModelNotReady, HostFailed) as error:
            # A damaged file was set aside, the model vanished from its host, or the host fails at
            # this model alone: the next attempt makes it again.
            self._retry_or_fail(lease, error)
        except (RejectError, FatalError) as error:
            self._fail(lease, error)
        except Exception as error:  # the worker's edge: a bug fails a job, never the worker
            log.error("job.fault", fault=describe_fault(error))
            self._retry_or_fail(lease, InternalError())

    def _refuse(self, job: Job) -> None:
        """Raise the error that ends a job before it begins, unless its version is released."""
        lost = job.lost_leases
        is_hopeless = lost > self._settings.max_lost_leases
        if not (job.cancel_requested or is_hopeless) or self._trainer.fence_off(job) is not None:
            return
        if job.cancel_requested:
            raise JobCancelled
        raise TrainingFailed(f"given up: {lost} workers were lost over this job; see their logs")

    def _wait_s(self, job: Job) -> float:
        """Return the seconds to wait: doubled at each release of the job, up to half a minute."""
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
            # An earlier owner of the lease has released the version meanwhile: the job succeeded.
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

    def _remove_old(self, elder_id: str) -> None:
        """Remove what retention allows; a failed removal is retried after the next job."""
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
        """Try a write a few times; after that, give up the lease and raise LeaseLost."""
        backoff = Backoff()
        for _ in range(_WRITE_TRIES):
            try:
                write()
                return
            except RetryError:
                time.sleep(backoff.next_s())
        raise LeaseLost
