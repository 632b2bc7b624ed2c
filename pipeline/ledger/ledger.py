"""The job ledger: what was accepted is done, once, by whoever holds the job's fence.

A job is one document. A claim is `find_one` of a candidate and then one conditional
`update_one`, whose filter holds the fence it saw: of two workers one matches. The lease is kept
on MongoDB's clock. A partial unique index lets at most one job of an elder run. The terminal
state and the events that tell of it are one update, so neither stands without the other.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import dropwhile
from typing import Any

from pymongo import DESCENDING
from pymongo.errors import BulkWriteError, DuplicateKeyError

from pipeline.ledger.fairness import FairQueue
from pipeline.ledger.outbox import Announcer
from pipeline.ledger.progress import ProgressState
from pipeline.storage.mongo import JOBS, MAJORITY, Document, Store, store_errors
from schemas.base import Frozen
from schemas.documents import ElderModel, Job, JobKind
from schemas.errors import JobAlreadyEnded, JobCancelled, LeaseLost, StoreUnavailable, UnknownJob
from schemas.events import ErrorBody, ModelReady, Status
from schemas.identifiers import Version, job_id_for, numbered

_DUPLICATE_KEY = 11000
_TRIED_ONE_BY_ONE = 8


# The source of jobs that no event asked for, and their place in an elder's line.
_FORMS = "forms"
_BEFORE_ALL = -1
_FORM_RETRY = timedelta(minutes=10)

# Of each name the number under which its next job is stored.
Numbers = dict[str, int]


class NewJob(Frozen):
    """An accepted `train-requested`, ready for the ledger."""

    request_source: str
    request_id: str
    requested_at: datetime
    elder_id: str
    elder_name: str
    force_retrain: bool
    job_id: str | None
    base_model: str | None
    overrides: dict[str, Any]
    traceparent: str | None
    queue_order: int
    """The record's offset: it orders the jobs of one elder, who has one partition."""
    kind: JobKind = "train"
    form_version: Version | None = None
    makes_current: bool = False
    replaces: Version | None = None

    @property
    def name(self) -> str:
        """The name that its job gets unless it is taken."""
        return self.job_id or job_id_for(self.elder_id, int(self.requested_at.timestamp()))


class Lease(Frozen):
    """A claimed job; every write of its holder names the fence."""

    job: Job
    fence: int
    owner: str

    @property
    def key(self) -> Document:
        """The filter that matches only while this lease is held."""
        return {"_id": self.job.id, "fence": self.fence, "status": "running"}


class Ledger:
    """The `jobs` collection. Every method raises StoreUnavailable when MongoDB is down."""

    def __init__(
        self,
        store: Store,
        announcer: Announcer,
        *,
        lease_s: float,
        fair_s: float,
        fence_off: Callable[[Job], object | None] = lambda job: None,
    ) -> None:
        """`fair_s` is how long an elder who was served waits behind those who were not.

        `fence_off` shuts out a job's earlier holders; it returns what one of them released.
        """
        self._fence_off = fence_off
        self._jobs = store[JOBS]
        self._lasting = store.get_collection(JOBS, read_concern=MAJORITY)
        self._store = store
        self._queue = FairQueue(store, fair_s=fair_s)
        self._announcer = announcer
        self._lease_ms = int(lease_s * 1000)

    # Accepting ------------------------------------------------------------------------------

    def accept(self, requests: Iterable[NewJob]) -> int:
        """Insert requests, durably, and return how many were new.

        A request that is in the ledger already is left alone: redelivery changes nothing.
        """
        rest = list(requests)
        accepted = 0
        numbers: Numbers = {}
        with store_errors():
            now = self._server_time()
            while rest:
                inserted = self._insert_until_clash(self._documents(rest, numbers, now))
                accepted += inserted
                for request in rest[:inserted]:
                    numbers[request.name] = numbers.get(request.name, 1) + 1
                rest = rest[inserted:]
                if rest and self._is_known(rest[0]):
                    # Known ones come in a row, redelivered.
                    rest = list(dropwhile(self._is_known, rest))
                elif rest:
                    name = rest[0].name
                    numbers[name] = self._free_number(name, numbers.get(name, 1) + 1)
        return accepted

    def request_form(
        self,
        model: ElderModel,
        number: int,
        *,
        makes_current: bool,
        request: str | None = None,
    ) -> Job:
        """Queue the job that makes a version servable again, or return the one that is queued.

        `makes_current`: the version is to answer then, in place of the one that answers now; an
        earlier such job for another version is cancelled. `request` names who asks. However many
        ask at once, there is one job; where the last one failed within `_FORM_RETRY`, that one is
        returned, and no new one made.
        """
        if makes_current:
            self._cancel_other_rollbacks(model.id, number)
        of_version = {"elder_id": model.id, "kind": "form", "form_version": number}
        with store_errors():
            now = self._server_time()
            # Counted first: whoever stores one in between is found, or has this very number.
            earlier = self._jobs.count_documents(of_version)
            last = self._jobs.find_one(of_version, sort=[("queued_at", DESCENDING)])
            if last is not None and _stands_for_another(last, now, makes_current):
                if request is not None:
                    asked = {"$addToSet": {"asked_by": request}}
                    self._jobs.update_one({"_id": last["_id"]}, asked)
                return Job.model_validate(last)
        name = request or f"v{number}/{earlier}"
        self.accept([_form_job(model, number, makes_current, name, now)])
        accepted = self.requested_form(model.id, name)
        if accepted is None:
            raise StoreUnavailable("the job was just stored, and is not to be read yet")
        return accepted

    def _cancel_other_rollbacks(self, elder_id: str, number: int) -> None:
        """The newest rollback is the one that counts."""
        with store_errors():
            found = self._jobs.find(
                {
                    "elder_id": elder_id,
                    "status": {"$in": ["queued", "running"]},
                    "kind": "form",
                    "makes_current": True,
                    "form_version": {"$ne": number},
                },
                {"_id": 1},
            )
            others = [document["_id"] for document in found]
        for job_id in others:
            with suppress(JobAlreadyEnded):
                self.cancel(job_id)

    def requested_form(self, elder_id: str, request: str) -> Job | None:
        """Return the job that answers a request for a form, if there is one."""
        key = {"elder_id": elder_id, "request_source": _FORMS, "asked_by": request}
        with store_errors():
            document = self._jobs.find_one(key)
        return None if document is None else Job.model_validate(document)

    def _documents(self, requests: list[NewJob], numbers: Numbers, now: datetime) -> list[Document]:
        """Build the documents; those with the same name are numbered in their order."""
        numbers = dict(numbers)
        documents = []
        for request in requests:
            number = numbers.get(request.name, 1)
            documents.append(self._document(request, number, now))
            numbers[request.name] = number + 1
        return documents

    def _insert_until_clash(self, documents: list[Document]) -> int:
        """Insert in order, so that no job is seen before an earlier one of its elder."""
        try:
            self._jobs.insert_many(documents, ordered=True)
        except BulkWriteError as error:
            details = error.details
            if details.get("writeConcernErrors"):
                raise StoreUnavailable from error
            (failure,) = details["writeErrors"]
            if failure["code"] != _DUPLICATE_KEY:
                raise
            index: int = failure["index"]
            return index
        return len(documents)

    def _free_number(self, name: str, number: int) -> int:
        """Find a number from `number` on under which nobody has a name.

        The first one, or, where many are taken in a row, the one behind them: ten thousand
        requests of one elder in one second must not try each other's names one by one.
        """
        taken, step = number - 1, 1
        while self._is_taken(name, number):
            step = 1 if number < _TRIED_ONE_BY_ONE else 2 * step
            taken, number = number, number + step
        while number - taken > 1:
            middle = (taken + number) // 2
            if self._is_taken(name, middle):
                taken = middle
            else:
                number = middle
        return number

    def _is_taken(self, name: str, number: int) -> bool:
        return self._jobs.find_one({"_id": numbered(name, number)}, {"_id": 1}) is not None

    def _is_known(self, request: NewJob) -> bool:
        key = {
            "request_source": request.request_source,
            "request_id": request.request_id,
            "elder_id": request.elder_id,
        }
        if self._lasting.find_one(key, {"_id": 1}) is not None:
            return True
        # What no majority has yet can be gone after a failover: its offset must wait for it.
        if self._jobs.find_one(key, {"_id": 1}) is not None:
            raise StoreUnavailable("another member is just storing the request")
        return False

    def _document(self, request: NewJob, number: int, now: datetime) -> Document:
        job = Job(
            id=numbered(request.name, number),
            request_source=request.request_source,
            request_id=request.request_id,
            elder_id=request.elder_id,
            elder_name=request.elder_name,
            kind=request.kind,
            form_version=request.form_version,
            makes_current=request.makes_current,
            replaces=request.replaces,
            asked_by=(request.request_id,) if request.kind == "form" else (),
            # A family waits for it, and it takes minutes.
            urgent=request.kind == "form",
            force_retrain=request.force_retrain,
            base_model=request.base_model,
            overrides=request.overrides,
            traceparent=request.traceparent,
            status="queued",
            sequence=1,
            attempt=0,
            fence=0,
            queued_at=now,
        )
        document = job.model_dump(by_alias=True, exclude={"outbox", "latest"})
        queued = self._announcer.progress(job, sequence=1)
        return document | {
            "queue_order": request.queue_order,
            "outbox": [queued.model_dump()],
            "has_pending": True,
            "pending_since": now,
        }

    def _server_time(self) -> datetime:
        hello: Document = self._store.command("hello")
        now: datetime = hello["localTime"]
        return now.replace(tzinfo=UTC)  # Commands are answered without a time zone.

    # Claiming -------------------------------------------------------------------------------

    def claim(self, owner: str) -> Lease | None:
        """Claim a job whose worker was lost, or else the one whose turn it is."""
        with store_errors():
            now = self._server_time()
            seen = self._lost(now) or self._queue.next(now)
            return None if seen is None else self._take(seen, owner, now)

    def _lost(self, now: datetime) -> Document | None:
        return self._jobs.find_one({"status": "running", "lease_until": {"$lt": now}})

    def _take(self, seen: Document, owner: str, now: datetime) -> Lease | None:
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
        lease = Lease(job=self.get(seen["_id"]), fence=fence, owner=owner)
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

    # Working --------------------------------------------------------------------------------

    def heartbeat(self, lease: Lease) -> None:
        """Renew the lease; raises LeaseLost, or JobCancelled when that was asked for."""
        self._write(lease, [{"$set": {"lease_until": self._lease_end(), "served_at": "$$NOW"}}])
        with store_errors():
            seen = self._jobs.find_one({"_id": lease.job.id}, {"cancel_requested": 1})
        if seen is not None and seen.get("cancel_requested"):
            raise JobCancelled

    def report(self, lease: Lease, state: ProgressState) -> None:
        """Store progress and announce it; only the newest unpublished progress is kept."""
        job = self._held(lease)
        sequence = job.sequence + 1
        told = state.model_dump() | {"progress": max(state.progress, job.progress)}
        current = job.model_copy(update=told | {"sequence": sequence})
        event = self._announcer.progress(current, sequence=sequence)
        fields = told | {
            "sequence": sequence,
            "latest": event.model_dump(),
            "has_pending": True,
            "pending_since": job_pending_since(job, event.time),
        }
        self._write(lease, {"$set": fields})

    def finish(
        self,
        lease: Lease,
        status: Status,
        *,
        error: ErrorBody | None = None,
        ready: ModelReady | None = None,
    ) -> Job:
        """End the job and queue the events that tell of it, in one update."""
        job = self._held(lease)
        return self._end(lease.key, job, status, error=error, ready=ready)

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

    def _held(self, lease: Lease) -> Job:
        with store_errors():
            document = self._jobs.find_one(lease.key)
        if document is None:
            raise LeaseLost
        return Job.model_validate(document)

    def _write(self, lease: Lease, update: Any) -> None:
        with store_errors():
            if self._jobs.update_one(lease.key, update).matched_count == 0:
                raise LeaseLost

    def _end(
        self,
        key: Document,
        job: Job,
        status: Status,
        *,
        error: ErrorBody | None = None,
        ready: ModelReady | None = None,
        requests: Sequence[str] = (),
    ) -> Job:
        sequence = job.sequence + 1
        ended = job.model_copy(
            update={
                "status": status,
                "stage": None,
                "sequence": sequence,
                "progress": 100 if status == "succeeded" else job.progress,
                "eta_seconds": None,
                "error": error,
                "version": ready.version if ready else None,
            }
        )
        events = [self._announcer.progress(ended, sequence=sequence)]
        if ready is not None:
            events.append(self._announcer.model_ready(ready, sequence=sequence + 1))
        fields = {
            "status": status,
            "stage": None,
            "sequence": events[-1].sequence,
            "progress": ended.progress,
            "eta_seconds": None,
            "error": error.model_dump() if error else None,
            "version": ended.version,
            "owner": None,
            "lease_until": None,
            "not_before": None,
            "latest": None,
            "has_pending": True,
            "pending_since": job_pending_since(job, events[0].time),
            "finished_at": events[0].time,
        }
        # `sequence` in the filter: a progress report in between must not be overtaken.
        pushed = {
            "outbox": {"$each": [e.model_dump() for e in events]},
            "cancel_requests": {"$each": list(requests)},
        }
        update = {"$set": fields, "$push": pushed}
        with store_errors():
            result = self._jobs.update_one(key | {"sequence": job.sequence}, update)
        if result.matched_count == 0:
            raise LeaseLost
        return ended

    # Asking ---------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job:
        """Return a job; raises UnknownJob."""
        with store_errors():
            document = self._jobs.find_one({"_id": job_id})
        if document is None:
            raise UnknownJob
        return Job.model_validate(document)

    def jobs(
        self, *, elder_id: str | None = None, status: Status | None = None, limit: int = 100
    ) -> list[Job]:
        """Return the newest jobs first."""
        condition = {"elder_id": elder_id, "status": status}
        with store_errors():
            cursor = self._jobs.find({k: v for k, v in condition.items() if v is not None})
            newest = cursor.sort([("queued_at", DESCENDING), ("queue_order", DESCENDING)])
            return [Job.model_validate(d) for d in newest.limit(limit)]

    def statuses(self, elder_id: str) -> dict[str, Status]:
        """Return the state of each of an elder's jobs, by job id."""
        with store_errors():
            found = self._jobs.find({"elder_id": elder_id}, {"status": 1})
            return {document["_id"]: document["status"] for document in found}

    def count(self, status: Status) -> int:
        """Count the jobs in a state."""
        with store_errors():
            return self._jobs.count_documents({"status": status})

    def cancel(self, job_id: str, request: str | None = None) -> Job:
        """Cancel a job: a queued one at once, a running one at its worker's next heartbeat.

        A job whose version was released already is left to its next worker, which ends it as
        succeeded. A `request` that comes again changes nothing. Raises UnknownJob, or
        JobAlreadyEnded.
        """
        requests = [] if request is None else [request]
        while True:
            job = self.get(job_id)
            if request in job.cancel_requests:
                return job
            if job.status not in ("queued", "running"):
                raise JobAlreadyEnded
            seen = {"_id": job_id, "status": job.status, "fence": job.fence}
            # Before the end: a worker that was held up must not release a cancelled job's version,
            # nor may what its last holder sent come late. The next holder has this fence.
            following = job.model_copy(update={"fence": job.fence + 1})
            if job.status == "queued" and self._fence_off(following) is None:
                with suppress(LeaseLost):  # A worker claimed it meanwhile.
                    self._end(seen, job, "cancelled", error=_cancelled(), requests=requests)
                    return self.get(job_id)
                continue
            update = {
                "$set": {"cancel_requested": True},
                "$push": {"cancel_requests": {"$each": requests}},
            }
            with store_errors():
                if self._jobs.update_one(seen, update).matched_count:
                    return self.get(job_id)

    def prioritize(self, job_id: str) -> Job:
        """Let a job begin before all others, after its elder's earlier ones; safe to repeat.

        Raises UnknownJob, or JobAlreadyEnded.
        """
        unfinished = {"_id": job_id, "status": {"$in": ["queued", "running"]}}
        with store_errors():
            result = self._jobs.update_one(unfinished, {"$set": {"urgent": True}})
        job = self.get(job_id)
        if result.matched_count == 0:
            raise JobAlreadyEnded
        return job


def job_pending_since(job: Job, now: datetime) -> datetime:
    """Since when a job has had something to publish: its oldest waiting event, or now."""
    waiting = [event.time for event in (*job.outbox, job.latest) if event is not None]
    return min(waiting, default=now)


def _form_job(
    model: ElderModel, number: int, makes_current: bool, request: str, now: datetime
) -> NewJob:
    return NewJob(
        request_source=_FORMS,
        request_id=request,
        requested_at=now,
        elder_id=model.id,
        elder_name=model.elder_name,
        force_retrain=False,
        job_id=None,
        base_model=None,
        overrides={},
        traceparent=None,
        queue_order=_BEFORE_ALL,
        kind="form",
        form_version=number,
        makes_current=makes_current,
        replaces=model.current,
    )


def _stands_for_another(job: Document, now: datetime, makes_current: bool) -> bool:
    """Whether a job that makes a form answers a new request for the same."""
    if job["status"] in ("queued", "running"):
        serves = bool(job["makes_current"]) or not makes_current
        return serves and not job["cancel_requested"]
    ended: datetime = job["finished_at"].replace(tzinfo=UTC)
    return bool(job["status"] == "failed") and now - ended < _FORM_RETRY


def _cancelled() -> ErrorBody:
    return ErrorBody(code=JobCancelled.code, message=JobCancelled().message)
