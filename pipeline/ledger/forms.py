"""Jobs that make a version's form again: one for each version, however many ask."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from pymongo import DESCENDING

from pipeline.ledger.acceptance import Acceptance
from pipeline.ledger.new_job import FORMS, form_job
from pipeline.storage.mongo import JOBS, Document, Store, server_time, store_errors
from schemas.documents import ElderModel, Job
from schemas.errors import JobAlreadyEnded, StoreUnavailable

# For so long a job that failed stands for new requests for the same form.
_FORM_RETRY = timedelta(minutes=10)


class FormRequests:
    """Requests for forms in the `jobs` collection. Raises StoreUnavailable."""

    def __init__(
        self, store: Store, acceptance: Acceptance, cancel: Callable[[str], object]
    ) -> None:
        self._store = store
        self._jobs = store[JOBS]
        self._acceptance = acceptance
        self._cancel = cancel

    def request(
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
            now = server_time(self._store)
            # Counted first: whoever stores one in between is found, or has this very number.
            earlier = self._jobs.count_documents(of_version)
            last = self._jobs.find_one(of_version, sort=[("queued_at", DESCENDING)])
            if last is not None and _stands_for_another(last, now, makes_current):
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
                self._cancel(job_id)


def _stands_for_another(job: Document, now: datetime, makes_current: bool) -> bool:
    """Say whether a job that makes a form answers a new request for the same form."""
    if job["status"] in ("queued", "running"):
        serves = bool(job["makes_current"]) or not makes_current
        return serves and not job["cancel_requested"]
    ended: datetime = job["finished_at"].replace(tzinfo=UTC)
    return bool(job["status"] == "failed") and now - ended < _FORM_RETRY
