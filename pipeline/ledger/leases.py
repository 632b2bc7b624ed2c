"""Leases on jobs: two workers are kept from running one job.

A claim is `find_one` of a candidate and then one conditional `update_one`, whose filter holds the
fence it saw: of two workers one matches. The fence grows with each claim, and every write of a
holder names it. The lease is kept on MongoDB's clock.
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
from schemas.errors import JobCancelled, LeaseLost


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
    """Claims jobs, and writes for those who hold them. Raises StoreUnavailable."""

    def __init__(
        self, store: Store, queue: FairQueue, announcer: Announcer, *, lease_s: float
    ) -> None:
        self._store = store
        self._jobs = store[JOBS]
        self._queue = queue
        self._announcer = announcer
        self._lease_ms = int(lease_s * 1000)

    def claim(self, owner: str) -> Lease | None:
        """Claim a job whose worker was lost, or else the next of the queue; None: there is none."""
        with store_errors():
            now = server_time(self._store)
            seen = self._lost(now) or self._queue.next(now)
            return None if seen is None else self._claim(seen, owner, now)

    def _lost(self, now: datetime) -> Document | None:
        return self._jobs.find_one({"status": "running", "lease_until": {"$lt": now}})

    def _claim(self, seen: Document, owner: str, now: datetime) -> Lease | None:
        fence = seen["fence"] + 1
        condition: Document = {"_id": seen["_id"], "fence": seen["fence"], "status": seen["status"]}
        # By the server's clock of a moment ago, not by `$expr` and `$$NOW`: with these SecantusDB
        # goes through the whole collection.
        if seen["status"] == "running":
            condition["lease_until"] = {"$lt": now}  # It may have been renewed since.
        elif seen["not_before"] is not None and seen["not_before"] > now:
            return None  # Released after we had looked for those that back off.
        goes_on = seen["status"] == "queued" and seen.get("given_back", False)
        fields: Document = {
            "status": "running",
            "fence": fence,
            "attempt": seen["attempt"] + (not goes_on),
            "given_back": False,
            "owner": {"$literal": owner},
            "lease_until": self._lease_end(),
            "served_at": "$$NOW",
            "stage": "preparing",
            # It never goes back within an attempt, whatever is done over again.
            "progress": seen["progress"] if goes_on else 0,
            "not_before": None,
            "started_at": {"$ifNull": ["$started_at", "$$NOW"]},
        }
        try:
            result = self._jobs.update_one(condition, [{"$set": fields}])
        except DuplicateKeyError:
            return None  # Another job of this elder was claimed in between.
        if result.matched_count == 0:
            return None
        lease = Lease(job=self._read(seen["_id"]), fence=fence, owner=owner)
        return None if self._gave_way(lease, seen) else lease

    def _gave_way(self, lease: Lease, seen: Document) -> bool:
        """Give a job back if an earlier one of its elder waits again.

        It ran while we looked and was released before we wrote. From now on ours keeps the
        elder's place, so this look is not overtaken by another.
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

    def heartbeat(self, lease: Lease) -> None:
        """Renew the lease; raises LeaseLost, or JobCancelled when that was asked for."""
        self._write(lease, [{"$set": {"lease_until": self._lease_end(), "served_at": "$$NOW"}}])
        with store_errors():
            seen = self._jobs.find_one({"_id": lease.job.id}, {"cancel_requested": 1})
        if seen is not None and seen.get("cancel_requested"):
            raise JobCancelled

    def report(self, lease: Lease, state: ProgressState) -> None:
        """Store progress and announce it; only the newest unpublished progress is kept."""
        job = self._job_of(lease)
        sequence = job.sequence + 1
        told = state.model_dump() | {"progress": max(state.progress, job.progress)}
        current = job.model_copy(update=told | {"sequence": sequence})
        event = self._announcer.progress(current, sequence=sequence)
        fields = told | {
            "sequence": sequence,
            "latest": event.model_dump(),
            "has_pending": True,
            "pending_since": pending_since(job, event.time),
        }
        self._write(lease, {"$set": fields})

    def finish(self, lease: Lease, ending: Ending) -> Job:
        """End the job and queue the events that tell of it, in one update; raises LeaseLost."""
        return self.end(lease.key, self._job_of(lease), ending)

    def release(self, lease: Lease, *, wait_s: float, count_attempt: bool) -> None:
        """Give the job back to the queue, at its old place, not before `wait_s` from now.

        `count_attempt`: it was tried and failed. Otherwise the next claim goes on with the attempt.
        """
        failures = {"$ifNull": ["$failures", 0]}
        fields: Document = {
            "status": "queued",
            "owner": None,
            "lease_until": None,
            "served_at": None,  # The elder's turn is not over: it goes on at its old place.
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
        """End a job that matches `key` and is still as it was read; raises LeaseLost."""
        ended = ended_job(job, ending)
        update = end_update(job, ended, ending, self._announcer)
        with store_errors():
            # `sequence` in the filter: a progress report in between must not be overtaken.
            result = self._jobs.update_one(key | {"sequence": job.sequence}, update)
        if result.matched_count == 0:
            raise LeaseLost
        return ended

    def _read(self, job_id: str) -> Job:
        return Job.model_validate(self._jobs.find_one({"_id": job_id}))
