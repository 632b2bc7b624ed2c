"""Events waiting in the ledger, and the port by which a relay takes them out.

An event's id is fixed when it is stored: however often it is published, it is the same event.
"""

from collections.abc import Callable
from datetime import datetime

from pymongo import ASCENDING, UpdateOne

from config.training import Language
from pipeline.progress import format_eta
from pipeline.store import JOBS, Document, Store, store_errors
from schemas.base import Frozen
from schemas.documents import Job, PendingEvent
from schemas.envelope import OutboundEvent
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
    """Builds the events that tell of a job, with the ids they keep for ever."""

    def __init__(self, clock: Callable[[], datetime], language: Language) -> None:
        self._clock = clock
        self._language = language

    def progress(self, job: Job, *, sequence: int) -> PendingEvent:
        """Tell how far a job is."""
        eta = job.eta_seconds
        data = TrainProgress(
            job_id=job.id,
            sequence=sequence,
            eta=None if eta is None else format_eta(eta, self._language),
            **{name: getattr(job, name) for name in _SHARED},
        )
        return self._pending(TRAIN_PROGRESS.name, f"{job.id}/progress/{sequence}", sequence, data)

    def model_ready(self, ready: ModelReady, *, sequence: int) -> PendingEvent:
        """Tell that a version answers."""
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


class Waiting(Frozen):
    """The unpublished events of one job, in order."""

    job_id: str
    events: tuple[OutboundEvent, ...]


class Outbox:
    """The relay's view of the ledger. Both methods raise StoreUnavailable."""

    def __init__(self, store: Store, source: str) -> None:
        """`source` becomes the events' `ce_source`."""
        self._jobs = store[JOBS]
        self._source = source

    def waiting(self, limit: int) -> list[Waiting]:
        """Return the unpublished events of up to `limit` jobs, oldest first."""
        fields = {"elder_id": 1, "traceparent": 1, "outbox": 1, "latest": 1}
        with store_errors():
            cursor = self._jobs.find({"has_pending": True}, fields)
            documents = list(cursor.sort("pending_since", ASCENDING).limit(limit))
        return [self._waiting(d) for d in documents]

    def mark_published(self, published: list[Waiting]) -> None:
        """Take published events out; what was added meanwhile stays."""
        updates: list[UpdateOne] = []
        for waiting in published:
            last = waiting.events[-1].sequence if waiting.events else 0
            updates += _removal(waiting.job_id, last)
        if updates:
            with store_errors():
                self._jobs.bulk_write(updates, ordered=True)

    def oldest(self) -> datetime | None:
        """Since when the oldest event has waited."""
        with store_errors():
            document = self._jobs.find_one(
                {"has_pending": True}, {"pending_since": 1}, sort=[("pending_since", ASCENDING)]
            )
        return document["pending_since"] if document else None

    def _waiting(self, document: Document) -> Waiting:
        stored = [*document.get("outbox", []), *filter(None, [document.get("latest")])]
        events = sorted((PendingEvent.model_validate(e) for e in stored), key=lambda e: e.sequence)
        return Waiting(
            job_id=document["_id"],
            events=tuple(
                OutboundEvent(
                    topic=event.topic,
                    key=document["elder_id"],
                    id=event.event_id,
                    source=self._source,
                    time=event.time,
                    data=event.data,
                    traceparent=document.get("traceparent"),
                    sequence=event.sequence,
                )
                for event in events
            ),
        )


def _removal(job_id: str, last: int) -> list[UpdateOne]:
    """Remove events up to `last`, then lower the flag if nothing is left.

    Two updates: between them the flag stands for an empty outbox, which costs a look and
    nothing else; the other way round an event could be left without its flag.
    """
    return [
        UpdateOne({"_id": job_id}, {"$pull": {"outbox": {"sequence": {"$lte": last}}}}),
        UpdateOne({"_id": job_id, "latest.sequence": {"$lte": last}}, {"$set": {"latest": None}}),
        UpdateOne(
            {"_id": job_id, "outbox": {"$size": 0}, "latest": None},
            {"$set": {"has_pending": False}},
        ),
    ]
