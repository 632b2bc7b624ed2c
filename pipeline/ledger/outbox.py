"""Events waiting in the ledger, and the port by which a relay takes them out.

An event's id is fixed when it is stored: however often it is published, it is the same event.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Self

from pymongo import ASCENDING, UpdateMany, UpdateOne

from config.training import Language
from pipeline.ledger.progress import format_eta
from pipeline.storage.mongo import JOBS, MAJORITY, Document, Store, store_errors
from schemas.base import Frozen
from schemas.documents import Job, PendingEvent
from schemas.envelope import OutboundEvent
from schemas.events import ModelReady, TrainProgress
from schemas.topics import MODEL_READY, TRAIN_PROGRESS

# A filter's list of ids is gone through for each document by SecantusDB; short ones cost less.
_MARKED_AT_ONCE = 100
_NOTHING_WAITS: Document = {"outbox": [], "latest": None, "has_pending": False}
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
    """The unpublished events of one job, in order, and its `sequence` when they were read."""

    job_id: str
    sequence: int
    events: tuple[OutboundEvent, ...]

    def first(self, count: int) -> Self:
        """The first events alone: published, while the rest waits on.

        No job is as it was read then, for no job has this sequence: each event is taken out.
        """
        return self.model_copy(update={"events": self.events[:count], "sequence": 0})


class Outbox:
    """The relay's view of the ledger. Every method raises StoreUnavailable.

    It sees what a majority of the servers has: no failover may take back what was published.
    """

    def __init__(self, store: Store, source: str) -> None:
        """`source` becomes the events' `ce_source`."""
        self._jobs = store.get_collection(JOBS, read_concern=MAJORITY)
        self._source = source

    def waiting(self, limit: int, skip: int = 0) -> list[Waiting]:
        """Return the unpublished events of up to `limit` jobs, oldest first, after `skip` jobs."""
        fields = {"elder_id": 1, "traceparent": 1, "sequence": 1, "outbox": 1, "latest": 1}
        with store_errors():
            cursor = self._jobs.find({"has_pending": True}, fields)
            documents = list(cursor.sort("pending_since", ASCENDING).skip(skip).limit(limit))
        return [self._waiting(d) for d in documents]

    def mark_published(self, published: list[Waiting]) -> None:
        """Take published events out; what was added meanwhile stays."""
        updates = list(_clearings(published))
        if not updates:
            return
        with store_errors():
            if self._jobs.bulk_write(updates, ordered=True).matched_count < len(published):
                self._mark_grown(published)

    def _mark_grown(self, published: list[Waiting]) -> None:
        """Take published events out of those jobs of which there is more to tell by now."""
        condition = {"_id": {"$in": [w.job_id for w in published]}, "has_pending": True}
        grown = {document["_id"] for document in self._jobs.find(condition, {"_id": 1})}
        removals = [r for w in published if w.job_id in grown for r in _removal(w)]
        if removals:
            self._jobs.bulk_write(removals, ordered=True)

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
            sequence=document["sequence"],
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


def _clearings(published: list[Waiting]) -> Iterator[UpdateMany]:
    """Empty the outboxes of jobs that are as they were read, many in one update.

    Whatever adds an event to a job raises its `sequence`: as long as that is the same, all that
    waits there has been published.
    """
    alike: defaultdict[int, list[str]] = defaultdict(list)
    for waiting in published:
        alike[waiting.sequence].append(waiting.job_id)
    for sequence, ids in alike.items():
        for begin in range(0, len(ids), _MARKED_AT_ONCE):
            some = ids[begin : begin + _MARKED_AT_ONCE]
            yield UpdateMany({"_id": {"$in": some}, "sequence": sequence}, {"$set": _NOTHING_WAITS})


def _removal(waiting: Waiting) -> list[UpdateOne]:
    """Remove what was published, then lower the flag if nothing is left.

    Two updates: between them the flag stands for an empty outbox, which costs a look and
    nothing else; the other way round an event could be left without its flag.
    """
    job_id = waiting.job_id
    last = waiting.events[-1].sequence if waiting.events else 0
    return [
        UpdateOne({"_id": job_id}, {"$pull": {"outbox": {"sequence": {"$lte": last}}}}),
        UpdateOne({"_id": job_id, "latest.sequence": {"$lte": last}}, {"$set": {"latest": None}}),
        UpdateOne(
            {"_id": job_id, "outbox": {"$size": 0}, "latest": None},
            {"$set": {"has_pending": False}},
        ),
    ]
