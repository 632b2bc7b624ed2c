"""The heartbeat: renews a job's lease while its work runs, and stops work that must not go on.

A thread renews the lease. When the lease is lost, the job is cancelled or the process stops, the
job's own thread raises the matching error at its next check.
"""

import threading
import time

import structlog

from config.settings import WorkerSettings
from consumers.kafka.faults import describe_fault
from pipeline.ledger.leases import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.progress import ProgressState
from schemas.errors import JobCancelled, LeaseLost, ModelServerError, RetryError, Stopped
from schemas.events import Stage

log = structlog.get_logger(__name__)


class JobWatch:
    """Holds a lease while its job runs; use as a context manager around the work."""

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
        """Raise LeaseLost, JobCancelled or Stopped if one of these must end the work.

        A process suspended past its lease detects it from its own clock, before the heartbeat
        reports it.
        """
        if time.monotonic() - self._renewed > self._settings.lease_s:
            self._verdict = self._verdict or LeaseLost()
        if self._verdict is not None:
            raise self._verdict
        if self._stop.is_set():
            raise Stopped

    def report(self, state: ProgressState) -> None:
        """Store progress: a new stage at once, the rest at most every `progress_interval_s`."""
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
                # MongoDB may be down for a moment. After `lease_s` by our own clock another worker
                # may have claimed the job, and this one must stop.
                if time.monotonic() - self._renewed > self._settings.lease_s:
                    self._verdict = LeaseLost()
                    return
                log.warning("worker.heartbeat_waits", code=error.code)
            except JobCancelled as verdict:
                # The lease was renewed nevertheless, and this thread keeps renewing it: the work
                # may take longer than a lease to stop, and until then no other worker may claim
                # the job.
                self._verdict, self._renewed = verdict, asked
            except LeaseLost as verdict:
                self._verdict = verdict
                return
            except Exception as error:  # the thread's edge: a bug counts as a lost lease
                log.error("worker.heartbeat_failed", fault=describe_fault(error))
                self._verdict = LeaseLost()
                return
