"""What came of the requests of a run, by request and by job, as the records and the ledger say."""

import json
from collections import defaultdict
from typing import Any

from schemas.record import Record
from tests.chaos.evidence import Case
from tests.chaos.workload import ROLLBACK, SOURCE, Elder

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
REPLIES = {"chat-requests": "chat-replies", "model-commands": "model-replies"}


def replies_by_request(case: Case, topic: str) -> dict[str, set[tuple[bytes | None, str]]]:
    """Return the distinct final replies to each request, as (event id, body).

    A reply that is published again is the same, byte for byte, and counts once.
    """
    found: dict[str, set[tuple[bytes | None, str]]] = defaultdict(set)
    for record in case.records(REPLIES[topic]):
        if record.header("final") != b"false":
            request = request_of(record)
            found[request].add((record.header("ce_id"), (record.value or b"").decode()))
    return dict(found)


def ends_by_job(case: Case) -> dict[str, set[tuple[bytes | None, str]]]:
    """Return the distinct terminal events of each job, as (event id, status)."""
    found: dict[str, set[tuple[bytes | None, str]]] = defaultdict(set)
    for record in case.records("train-progress"):
        told = data_of(record)
        if told["status"] in TERMINAL:
            found[told["job_id"]].add((record.header("ce_id"), told["status"]))
    return dict(found)


def ready_by_job(case: Case) -> dict[str, set[bytes | None]]:
    """Return the event ids of each job's `model-ready`."""
    found: dict[str, set[bytes | None]] = defaultdict(set)
    for record in case.records("model-ready"):
        found[data_of(record)["job_id"]].add(record.header("ce_id"))
    return dict(found)


def jobs_by_request(case: Case) -> dict[str, list[dict[str, Any]]]:
    """Return the ledger's jobs of each upstream request."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for job in case.jobs():
        if job["request_source"] == SOURCE:
            found[job["request_id"]].append(job)
    return dict(found)


def rollbacks(case: Case, elder: Elder) -> set[int | None]:
    """Return the versions to which an elder's rollback went, by its replies; None for an error."""
    replies = replies_by_request(case, "model-commands").get(f"{elder.id}-{ROLLBACK}", set())
    bodies = [json.loads(body) for _, body in replies]
    return {body["result"]["current"] if body["result"] else None for body in bodies}


def request_of(record: Record) -> str:
    """Return the id of the request that a reply answers."""
    return (record.header("kafka_correlationId") or b"").decode()


def data_of(record: Record) -> dict[str, Any]:
    """Return the JSON of a record; an empty one for no value."""
    data: dict[str, Any] = json.loads(record.value or b"{}")
    return data
