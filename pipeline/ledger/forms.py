"""Form jobs: each makes a stored version servable by the model host again.

Requests for the same form share one job, however many come at once. The exception is a rollback,
which makes the version current: only a job that does so can answer it. No event asks for these
jobs, and they come before all others of their elder.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from pymongo import DESCENDING

from pipeline.ledger.acceptance import Acceptance
from pipeline.ledger.new_job import FORMS, form_job
from pipeline.storage.mongo import JOBS, Document, Store, server_time, store_errors
from schemas.documents import ElderModel, Job
from schemas.errors import JobAlreadyEnded, StoreUnavailable

# For this long after a job has failed, a new request for its form gets that job, not a new one.
_RETRY_AFTER = timedelta(minutes=10)


class FormRequests:
    """Queues form jobs and finds them; raises StoreUnavailable when MongoDB is down."""

    def __init__(
        self, store: Store, acceptance: Acceptance, cancel: Callable[[str], object]
    ) -> None:
        self._store = store
        self._jobs = store[JOBS]
        self._acceptance = acceptance
        self._cancel = cancel

    def request(
        self, model: ElderModel, number: int, *, makes_current: bool, request: str | None = None
    ) -> Job:
        """Queue a form job, or return an existing one that answers the request.

        `Ledger.request_form` describes the parameters. A job that failed within `_RETRY_AFTER` is
        returned in place of a new one.
        """
        if makes_current:
            self._cancel_other_rollbacks(model.id, number)
        of_version = {"elder_id": model.id, "kind": "form", "form_version": number}
        with store_errors():
            now = server_time(self._store)
            # Count before searching: a job that is stored in between is either found by the search
            # or has taken this number, and with it the name below.
            earlier = self._jobs.count_documents(of_version)
            last = self._jobs.find_one(of_version, sort=[("queued_at", DESCENDING)])
            if last is not None and _answers_request(last, now, makes_current):
                if request is not None:
                    asked = {"$addToSet": {"asked_by": request}}
                    self._jobs.update_one({"_id": last["_id"]}, asked)
                return Job.model_validate(last)
        name = request or f"v{number}/{earlier}"
        self._acceptance.accept([form_job(model, number, makes_current, name, now)])
        accepted = self.requested(model.id, name)
        if accepted is None:
            raise StoreUnavailable("the job was just stored, and is not to be read yet")
        return accepted

    def requested(self, elder_id: str, request: str) -> Job | None:
        """Return the job that answers a request for a form, if there is one."""
        key = {"elder_id": elder_id, "request_source": FORMS, "asked_by": request}
        with store_errors():
            document = self._jobs.find_one(key)
        return None if document is None else Job.model_validate(document)

    def _cancel_other_rollbacks(self, elder_id: str, number: int) -> None:
        """Cancel the unfinished rollbacks to other versions: the newest rollback counts."""
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
                self._cancel(job_id)


def _answers_request(job: Document, now: datetime, makes_current: bool) -> bool:
    """Say whether an existing form job answers a new request for the same version.

    An unfinished job does, unless it is to be cancelled, or the request is a rollback and the job
    is not. A failed one does until `_RETRY_AFTER` has passed.
    """
    if job["status"] in ("queued", "running"):
        serves = bool(job["makes_current"]) or not makes_current
        return serves and not job["cancel_requested"]
    ended: datetime = job["finished_at"].replace(tzinfo=UTC)
    return bool(job["status"] == "failed") and now - ended < _RETRY_AFTER
