"""The events of a job, under ids that are fixed when they are stored.

However often one is published, it is the same event.
"""

from collections.abc import Callable
from datetime import datetime

from config.training import Language
from pipeline.ledger.eta_text import format_eta
from schemas.documents import Job, PendingEvent
from schemas.events import ModelReady, TrainProgress
from schemas.topics import MODEL_READY, TRAIN_PROGRESS

# Fields of a job that its progress events repeat as they are.
_SHARED = (
    "elder_id",
    "status",
    "stage",
    "progress",
    "current_epoch",
    "total_epochs",
    "step",
    "total_steps",
    "loss",
    "eta_seconds",
    "attempt",
    "error",
)


class Announcer:
    """Builds the events of jobs."""

    def __init__(self, clock: Callable[[], datetime], language: Language) -> None:
        self._clock = clock
        self._language = language

    def progress(self, job: Job, *, sequence: int) -> PendingEvent:
        """Return the event that says how far a job is."""
        eta = job.eta_seconds
        data = TrainProgress(
            job_id=job.id,
            sequence=sequence,
            eta=None if eta is None else format_eta(eta, self._language),
            **{name: getattr(job, name) for name in _SHARED},
        )
        return self._pending(TRAIN_PROGRESS.name, f"{job.id}/progress/{sequence}", sequence, data)

    def model_ready(self, ready: ModelReady, *, sequence: int) -> PendingEvent:
        """Return the event that says that a version answers."""
        return self._pending(MODEL_READY.name, f"{ready.job_id}/model-ready", sequence, ready)

    def _pending(
        self, topic: str, event_id: str, sequence: int, data: TrainProgress | ModelReady
    ) -> PendingEvent:
        return PendingEvent(
            sequence=sequence,
            topic=topic,
            event_id=event_id,
            time=self._clock(),
            data=data.model_dump(mode="json"),
        )
