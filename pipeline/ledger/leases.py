"""Leases and fences: they keep two workers from running one job.

A claim reads a candidate and then updates it on the condition that its fence is unchanged: of two
workers that saw the same fence, one matches. Every claim raises the fence, and every later write
names it, so a worker that lost its lease can change nothing. Leases expire by MongoDB's clock. A
partial unique index allows at most one running job per elder.
"""

from contextlib import suppress
from datetime import datetime
from typing import Any

from pymongo.errors import DuplicateKeyError

from pipeline.ledger.endings import Ending, end_update, ended_job, pending_since
from pipeline.ledger.events import Announcer
from pipeline.ledger.fairness import FairQueue
from pipeline.ledger.progress import ProgressState
from pipeline.storage.mongo import JOBS, Document, Store, server_time, store_errors
from schemas.base import Frozen
from schemas.documents import Job
from schemas.errors import JobCancelled, LeaseLost, UnknownJob


class Lease(Frozen):
    """A claimed job; every write of its holder names the fence."""

    job: Job
    fence: int
    owner: str

    @property
    def key(self) -> Document:
        """The filter that matches only while this lease is held."""
        return {"_id": self.job.id, "fence": self.fence, "status": "running"}


class Leases:
    """Claims jobs and writes for their holders; raises StoreUnavailable when MongoDB is down."""

    def __init__(
        self, store: Store, queue: FairQueue, announcer: Announcer, *, lease_s: float
    ) -> None:
        self._store = store
        self._jobs = store[JOBS]
        self._queue = queue
        self._announcer = announcer
        self._lease_ms = int(lease_s * 1000)

    def claim(self, owner: str) -> Lease | None:
        """Claim a job whose lease expired, or else the next of the queue.

        Returns None if there is none, or if another worker claimed it first.
        """
        with store_errors():
            now = server_time(self._store)
            seen = self._expired(now) or self._queue.next(now)
            return None if seen is None else self._claim(seen, owner, now)

    def _expired(self, now: datetime) -> Document | None:
        return self._jobs.find_one({"status": "running", "lease_until": {"$lt": now}})

    def _claim(self, seen: Document, owner: str, now: datetime) -> Lease | None:
        fence = seen["fence"] + 1
        condition: Document = {"_id": seen["_id"], "fence": seen["fence"], "status": seen["status"]}
        # Compared with the server's time as read a moment ago, not by `$expr` and `$$NOW`: for
        # these SecantusDB scans the whole collection.
        if seen["status"] == "running":
            condition["lease_until"] = {"$lt": now}  # It may have been renewed since.
        elif seen["not_before"] is not None and seen["not_before"] > now:
            return None  # Released after the queue had read which jobs are in backoff.
        continues = seen["status"] == "queued" and seen.get("given_back", False)
        fields: Document = {
            "status": "running",
            "fence": fence,
            "attempt": seen["attempt"] + (not continues),
            "given_back": False,
            "owner": {"$literal": owner},
            "lease_until": self._lease_end(),
            "served_at": "$$NOW",
            "stage": "preparing",
            # Progress never goes back within an attempt, even if work is repeated.
            "progress": seen["progress"] if continues else 0,
            "not_before": None,
            "started_at": {"$ifNull": ["$started_at", "$$NOW"]},
        }
        try:
            result = self._jobs.update_one(condition, [{"$set": fields}])
        except DuplicateKeyError:
            return None  # Another job of this elder was claimed in between.
        if result.matched_count == 0:
            return None
        lease = Lease(job=self.get(seen["_id"]), fence=fence, owner=owner)
        return None if self._yields_to_earlier(lease, seen) else lease

    def _yields_to_earlier(self, lease: Lease, seen: Document) -> bool:
        """Release the job if an earlier one of its elder is queued again; say whether it was.

        The earlier job was running when the queue was read, and was released before this claim
        was written. A running job blocks its elder, so nothing can change after this check.
        """
        earlier = {
            "elder_id": seen["elder_id"],
            "status": "queued",
            "queue_order": {"$lt": seen["queue_order"]},
        }
        if self._jobs.find_one(earlier, {"_id": 1}) is None:
            return False
        with suppress(LeaseLost):
            self.release(lease, wait_s=0, count_attempt=False)
        return True

    def _lease_end(self) -> Document:
        return {"$add": ["$$NOW", self._lease_ms]}

    def get(self, job_id: str) -> Job:
        """Return a job; raises UnknownJob."""
        with store_errors():
            document = self._jobs.find_one({"_id": job_id})
        if document is None:
            raise UnknownJob
        return Job.model_validate(document)

    def heartbeat(self, lease: Lease) -> None:
        """Renew the lease; raises LeaseLost, or JobCancelled if cancelling was requested."""
        self._write(lease, [{"$set": {"lease_until": self._lease_end(), "served_at": "$$NOW"}}])
        with store_errors():
            seen = self._jobs.find_one({"_id": lease.job.id}, {"cancel_requested": 1})
        if seen is not None and seen.get("cancel_requested"):
            raise JobCancelled

    def report(self, lease: Lease, state: ProgressState) -> None:
        """Store progress and announce it; only the newest unpublished progress is kept.

        Raises LeaseLost.
        """
        job = self._job_of(lease)
        sequence = job.sequence + 1
        measured = state.model_dump() | {"progress": max(state.progress, job.progress)}
        current = job.model_copy(update=measured | {"sequence": sequence})
        event = self._announcer.progress(current, sequence=sequence)
        fields = measured | {
            "sequence": sequence,
            "latest": event.model_dump(),
            "has_pending": True,
            "pending_since": pending_since(job, event.time),
        }
        self._write(lease, {"$set": fields})

    def finish(self, lease: Lease, ending: Ending) -> Job:
        """End the job and queue the events that report it, in one update; raises LeaseLost."""
        return self.end(lease.key, self._job_of(lease), ending)

    def release(self, lease: Lease, *, wait_s: float, count_attempt: bool) -> None:
        """Return the job to its old place in the queue, not to be claimed within `wait_s` seconds.

        `count_attempt`: the attempt failed. Otherwise the next claim continues the attempt.
        Raises LeaseLost.
        """
        failures = {"$ifNull": ["$failures", 0]}
        fields: Document = {
            "status": "queued",
            "owner": None,
            "lease_until": None,
            "served_at": None,  # Not served after all: the elder keeps its place.
            "not_before": {"$add": ["$$NOW", int(wait_s * 1000)]},
            "given_back": not count_attempt,
            "failures": {"$add": [failures, 1 if count_attempt else 0]},
        }
        self._write(lease, [{"$set": fields}])

    def _job_of(self, lease: Lease) -> Job:
        with store_errors():
            document = self._jobs.find_one(lease.key)
        if document is None:
            raise LeaseLost
        return Job.model_validate(document)

    def _write(self, lease: Lease, update: Any) -> None:
        with store_errors():
            if self._jobs.update_one(lease.key, update).matched_count == 0:
                raise LeaseLost

    def end(self, key: Document, job: Job, ending: Ending) -> Job:
        """End the job that `key` matches; raises LeaseLost if it differs from `job` by now."""
        ended = ended_job(job, ending)
        update = end_update(job, ended, ending, self._announcer)
        with store_errors():
            # `sequence` in the filter: no progress reported in between may be lost.
            result = self._jobs.update_one(key | {"sequence": job.sequence}, update)
        if result.matched_count == 0:
            raise LeaseLost
        return ended
