"""The outbox: events that wait in the ledger, read by the relay and removed once published."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Self

from pymongo import ASCENDING, UpdateMany, UpdateOne

from pipeline.storage.mongo import JOBS, MAJORITY, Document, Store, store_errors
from schemas.base import Frozen
from schemas.documents import PendingEvent
from schemas.envelope import OutboundEvent

# SecantusDB walks a filter's list of ids for each document, so short lists cost less.
_MARKED_AT_ONCE = 100
_NOTHING_WAITS: Document = {"outbox": [], "latest": None, "has_pending": False}


class Waiting(Frozen):
    """The unpublished events of one job, in order, and its `sequence` when they were read."""

    job_id: str
    sequence: int
    events: tuple[OutboundEvent, ...]

    def first(self, count: int) -> Self:
        """Return the first `count` events, which were published without the rest.

        Sequence 0 matches no job, so events are removed one by one.
        """
        return self.model_copy(update={"events": self.events[:count], "sequence": 0})


class Outbox:
    """The relay's view of the ledger. Every method raises StoreUnavailable.

    It reads what a majority of the servers has: no failover may take back a published event.
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
        """Remove published events; those that were added meanwhile stay."""
        updates = list(_clearings(published))
        if not updates:
            return
        with store_errors():
            if self._jobs.bulk_write(updates, ordered=True).matched_count < len(published):
                self._mark_grown(published)

    def _mark_grown(self, published: list[Waiting]) -> None:
        """Remove published events from jobs that have newer ones by now."""
        condition = {"_id": {"$in": [w.job_id for w in published]}, "has_pending": True}
        grown = {document["_id"] for document in self._jobs.find(condition, {"_id": 1})}
        removals = [r for w in published if w.job_id in grown for r in _removal(w)]
        if removals:
            self._jobs.bulk_write(removals, ordered=True)

    def oldest(self) -> datetime | None:
        """Return since when the oldest event has waited; None: no event waits."""
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

    In separate updates: between them the flag may stand over an empty outbox, which costs the
    relay one read. In the other order an event could be left without its flag, and never told.
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
