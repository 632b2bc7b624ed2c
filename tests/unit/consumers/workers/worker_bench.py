"""A worker over a listing ledger and a trainer that does what a test says."""

import threading
from collections.abc import Callable

import pytest

from config.metrics import Metrics
from config.settings import WorkerSettings
from consumers.workers.stage_clock import StageClock
from consumers.workers.training_worker import TrainingWorker
from pipeline.jobs.job_progress import Watch
from pipeline.ledger.leases import Lease
from pipeline.ledger.progress import ProgressState
from pipeline.versions.retention import Removal
from schemas.documents import Job, ModelVersion
from schemas.events import ErrorBody, ModelReady
from tests.fakes.clock import NOW
from tests.fakes.jobs import make_job, make_ready

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
