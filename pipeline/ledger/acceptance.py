"""Acceptance: each request becomes one stored job, however often it is delivered.

A unique index on the request makes redelivery harmless. Job ids are unique too: of several requests
with the same job name, all but the first get a number appended.
"""

from collections.abc import Iterable
from datetime import datetime
from itertools import dropwhile

from pymongo.errors import BulkWriteError

from pipeline.ledger.events import Announcer
from pipeline.ledger.new_job import NewJob
from pipeline.storage.mongo import JOBS, MAJORITY, Document, Store, server_time, store_errors
from schemas.documents import Job
from schemas.errors import StoreUnavailable
from schemas.identifiers import numbered

_DUPLICATE_KEY = 11000
# The search for a free number tries each number up to this one, and then takes doubling steps.
_TRIED_ONE_BY_ONE = 8

# By job name: the number that the next job with this name gets.
Numbers = dict[str, int]


class Acceptance:
    """Inserts requests into the `jobs` collection; raises StoreUnavailable when MongoDB is down."""

    def __init__(self, store: Store, announcer: Announcer) -> None:
        self._store = store
        self._announcer = announcer
        self._jobs = store[JOBS]
        self._committed = store.get_collection(JOBS, read_concern=MAJORITY)

    def accept(self, requests: Iterable[NewJob]) -> int:
        """Insert requests, durably, and return how many were new.

        A request that is already in the ledger is left alone: redelivery changes nothing. The jobs
        of one elder become visible in the order of `requests`.
        """
        rest = list(requests)
        accepted = 0
        numbers: Numbers = {}
        with store_errors():
            now = server_time(self._store)
            while rest:
                inserted = self._insert_until_clash(self._documents(rest, numbers, now))
                accepted += inserted
                for request in rest[:inserted]:
                    numbers[request.name] = numbers.get(request.name, 1) + 1
                rest = rest[inserted:]
                if rest and self._is_known(rest[0]):
                    # Redelivered requests usually follow one another.
                    rest = list(dropwhile(self._is_known, rest))
                elif rest:
                    name = rest[0].name
                    numbers[name] = self._free_number(name, numbers.get(name, 1) + 1)
        return accepted

    def _documents(self, requests: list[NewJob], numbers: Numbers, now: datetime) -> list[Document]:
        """Build the documents; requests with the same name are numbered in their order."""
        numbers = dict(numbers)
        documents = []
        for request in requests:
            number = numbers.get(request.name, 1)
            documents.append(job_document(request, number, now, self._announcer))
            numbers[request.name] = number + 1
        return documents

    def _insert_until_clash(self, documents: list[Document]) -> int:
        """Insert in order up to the first duplicate key; return how many were inserted.

        The order keeps a job from being visible before an earlier one of its elder.
        """
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
        """Return a free number of a name, at or after `number`.

        If many in a row are taken, the steps double, and bisection then finds a free number
        right after a taken one. So ten thousand requests of one elder in one second need no query
        for each taken number.
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
        if self._committed.find_one(key, {"_id": 1}) is not None:
            return True
        # A job that is not yet on a majority of the servers can be lost in a failover, so the
        # offset of its request must not be committed yet.
        if self._jobs.find_one(key, {"_id": 1}) is not None:
            raise StoreUnavailable("another member is just storing the request")
        return False


def job_document(request: NewJob, number: int, now: datetime, announcer: Announcer) -> Document:
    """Return the document of a queued job, with its first event in the outbox.

    `number` tells apart the jobs that have the same name; `now` is the server's time.
    """
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
        # A form takes minutes, and a family waits for it.
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
    queued = announcer.progress(job, sequence=1)
    return document | {
        "queue_order": request.queue_order,
        "outbox": [queued.model_dump()],
        "has_pending": True,
        "pending_since": now,
    }
