"""How a job ends: its terminal state and the events that report it, as one update.

So neither is stored without the other, wherever a process crashes.
"""

from datetime import datetime

from pipeline.ledger.events import Announcer
from pipeline.storage.mongo import Document
from schemas.base import Frozen
from schemas.documents import Job
from schemas.events import ErrorBody, ModelReady, Status


class Ending(Frozen):
    """How a job ends; `requests` are the ids of the cancel commands that this end answers."""

    status: Status
    error: ErrorBody | None = None
    ready: ModelReady | None = None
    requests: tuple[str, ...] = ()


def ended_job(job: Job, ending: Ending) -> Job:
    """Return the job in its terminal state; its `sequence` is that of its last progress event."""
    return job.model_copy(
        update={
            "status": ending.status,
            "stage": None,
            "sequence": job.sequence + 1,
            "progress": 100 if ending.status == "succeeded" else job.progress,
            "eta_seconds": None,
            "error": ending.error,
            "version": ending.ready.version if ending.ready else None,
        }
    )


def end_update(job: Job, ended: Job, ending: Ending, announcer: Announcer) -> Document:
    """Return the MongoDB update that turns `job` into `ended` and queues the events that report it.

    The events are the last progress event and, if a version was made, `model-ready`.
    """
    events = [announcer.progress(ended, sequence=ended.sequence)]
    if ending.ready is not None:
        events.append(announcer.model_ready(ending.ready, sequence=ended.sequence + 1))
    fields = {
        "status": ended.status,
        "stage": None,
        "sequence": events[-1].sequence,
        "progress": ended.progress,
        "eta_seconds": None,
        "error": ended.error.model_dump() if ended.error else None,
        "version": ended.version,
        "owner": None,
        "lease_until": None,
        "not_before": None,
        "latest": None,
        "has_pending": True,
        "pending_since": pending_since(job, events[0].time),
        "finished_at": events[0].time,
    }
    pushed = {
        "outbox": {"$each": [event.model_dump() for event in events]},
        "cancel_requests": {"$each": list(ending.requests)},
    }
    return {"$set": fields, "$push": pushed}


def pending_since(job: Job, now: datetime) -> datetime:
    """Return the time of the job's oldest unpublished event; `now` if it has none."""
    waiting = [event.time for event in (*job.outbox, job.latest) if event is not None]
    return min(waiting, default=now)
