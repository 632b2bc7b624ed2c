"""The job ledger: every accepted request is done once, by the worker with the job's newest fence.

A job is one document of the `jobs` collection. Handlers, workers and commands use `Ledger`; only
the relay, which publishes the events, uses `outbox` itself. Each part owns one subject:
`acceptance` stores requests, `forms` queues form jobs, `fairness` names the next job, `leases`
keeps two workers from running one job, `endings` builds the update that ends a job, `events` builds
its events.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress

from pymongo import DESCENDING

from pipeline.ledger.acceptance import Acceptance
from pipeline.ledger.endings import Ending
from pipeline.ledger.events import Announcer
from pipeline.ledger.fairness import FairQueue
from pipeline.ledger.forms import FormRequests
from pipeline.ledger.leases import Lease, Leases
from pipeline.ledger.new_job import NewJob
from pipeline.ledger.progress import ProgressState
from pipeline.storage.mongo import JOBS, Store, store_errors
from schemas.documents import ElderModel, Job
from schemas.errors import JobAlreadyEnded, JobCancelled, LeaseLost
from schemas.events import ErrorBody, ModelReady, Status


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

        `fence_off` keeps a job's earlier holders from releasing a version; it returns the version
        that one of them has released already, or None.
        """
        self._fence_off = fence_off
        self._jobs = store[JOBS]
        self._acceptance = Acceptance(store, announcer)
        self._leases = Leases(store, FairQueue(store, fair_s=fair_s), announcer, lease_s=lease_s)
        self._forms = FormRequests(store, self._acceptance, self.cancel)

    # Accepting ------------------------------------------------------------------------------

    def accept(self, requests: Iterable[NewJob]) -> int:
        """Insert requests, durably, and return how many were new.

        A request that is already in the ledger is left alone: redelivery changes nothing.
        """
        return self._acceptance.accept(requests)

    def request_form(
        self, model: ElderModel, number: int, *, makes_current: bool, request: str | None = None
    ) -> Job:
        """Queue the job that makes version `number` servable again, or return the existing one.

        `makes_current`: the version then becomes the elder's current one; an unfinished job that
        would make another version current is cancelled. `request` is the id of the command that
        asks. Requests that come at once share one job. A job that failed in the last ten minutes
        is returned in place of a new one.
        """
        return self._forms.request(model, number, makes_current=makes_current, request=request)

    def requested_form(self, elder_id: str, request: str) -> Job | None:
        """Return the job that answers a request for a form, if there is one."""
        return self._forms.requested(elder_id, request)

    # Working --------------------------------------------------------------------------------

    def claim(self, owner: str) -> Lease | None:
        """Claim a job whose lease expired, or else the next of the queue.

        Returns None if there is none, or if another worker claimed it first.
        """
        return self._leases.claim(owner)

    def heartbeat(self, lease: Lease) -> None:
        """Renew the lease; raises LeaseLost, or JobCancelled if cancelling was requested."""
        self._leases.heartbeat(lease)

    def report(self, lease: Lease, state: ProgressState) -> None:
        """Store progress and announce it; only the newest unpublished progress is kept.

        Raises LeaseLost.
        """
        self._leases.report(lease, state)

    def finish(
        self,
        lease: Lease,
        status: Status,
        *,
        error: ErrorBody | None = None,
        ready: ModelReady | None = None,
    ) -> Job:
        """End the job and queue the events that report it, in one update; raises LeaseLost."""
        return self._leases.finish(lease, Ending(status=status, error=error, ready=ready))

    def release(self, lease: Lease, *, wait_s: float, count_attempt: bool) -> None:
        """Return the job to its old place in the queue, not to be claimed within `wait_s` seconds.

        `count_attempt`: the attempt failed. Otherwise the next claim continues the attempt.
        Raises LeaseLost.
        """
        self._leases.release(lease, wait_s=wait_s, count_attempt=count_attempt)

    # Operating ------------------------------------------------------------------------------

    def cancel(self, job_id: str, request: str | None = None) -> Job:
        """Cancel a job: a queued one at once, a running one at its worker's next heartbeat.

        A job whose version was already released is left to its next worker, which ends it as
        succeeded. `request` is the id of the command; one that is repeated changes nothing. Raises
        UnknownJob, or JobAlreadyEnded.
        """
        requests = () if request is None else (request,)
        while True:
            job = self.get(job_id)
            if request in job.cancel_requests:
                return job
            if job.status not in ("queued", "running"):
                raise JobAlreadyEnded
            seen = {"_id": job_id, "status": job.status, "fence": job.fence}
            # Earlier holders are fenced off before the job ends: neither a worker that was
            # suspended nor a late write may release the version of a cancelled job. `following`
            # has the fence that the next holder would have.
            following = job.model_copy(update={"fence": job.fence + 1})
            if job.status == "queued" and self._fence_off(following) is None:
                with suppress(LeaseLost):  # A worker claimed it meanwhile.
                    self._leases.end(seen, job, _cancelled(requests))
                    return self.get(job_id)
                continue
            update = {
                "$set": {"cancel_requested": True},
                "$push": {"cancel_requests": {"$each": list(requests)}},
            }
            with store_errors():
                if self._jobs.update_one(seen, update).matched_count:
                    return self.get(job_id)

    def prioritize(self, job_id: str) -> Job:
        """Let a job begin before other elders' jobs, after its elder's earlier ones; idempotent.

        Raises UnknownJob, or JobAlreadyEnded.
        """
        unfinished = {"_id": job_id, "status": {"$in": ["queued", "running"]}}
        with store_errors():
            result = self._jobs.update_one(unfinished, {"$set": {"urgent": True}})
        job = self.get(job_id)
        if result.matched_count == 0:
            raise JobAlreadyEnded
        return job

    # Reading --------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job:
        """Return a job; raises UnknownJob."""
        return self._leases.get(job_id)

    def jobs(
        self, *, elder_id: str | None = None, status: Status | None = None, limit: int = 100
    ) -> list[Job]:
        """Return up to `limit` jobs, newest first; `elder_id` and `status` restrict them."""
        condition = {"elder_id": elder_id, "status": status}
        with store_errors():
            cursor = self._jobs.find({k: v for k, v in condition.items() if v is not None})
            newest = cursor.sort([("queued_at", DESCENDING), ("queue_order", DESCENDING)])
            return [Job.model_validate(d) for d in newest.limit(limit)]

    def statuses(self, elder_id: str) -> dict[str, Status]:
        """Return the status of each of an elder's jobs, by job id."""
        with store_errors():
            found = self._jobs.find({"elder_id": elder_id}, {"status": 1})
            return {document["_id"]: document["status"] for document in found}

    def count(self, status: Status) -> int:
        """Count the jobs with a status."""
        with store_errors():
            return self._jobs.count_documents({"status": status})


def _cancelled(requests: tuple[str, ...]) -> Ending:
    error = ErrorBody(code=JobCancelled.code, message=JobCancelled().message)
    return Ending(status="cancelled", error=error, requests=requests)
