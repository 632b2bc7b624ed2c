"""Nothing is lost: each request has its job, its end, its reply or its dead letter."""

from collections.abc import Iterable

from tests.chaos.checks.outcomes import (
    REPLIES,
    TERMINAL,
    data_of,
    ends_by_job,
    jobs_by_request,
    replies_by_request,
)
from tests.chaos.evidence import Case


def lost(case: Case) -> Iterable[str]:
    """Say what the broker accepted and nobody dealt with."""
    yield from _jobs_lost(case)
    yield from _answers_lost(case)


def _jobs_lost(case: Case) -> Iterable[str]:
    jobs, ends = jobs_by_request(case), ends_by_job(case)
    for request in sorted(case.sent("train-requested")):
        if request not in jobs:
            yield f"{request} is not in the ledger"
    for job in (job for found in jobs.values() for job in found):
        if job["status"] not in TERMINAL:
            yield f"job {job['_id']} has no end: {job['status']}"
        elif job["_id"] not in ends:
            yield f"job {job['_id']} ended and nobody was told"


def _answers_lost(case: Case) -> Iterable[str]:
    for topic in REPLIES:
        for request in sorted(case.sent(topic) - replies_by_request(case, topic).keys()):
            yield f"{request} has no reply"
    for topic in ("train-requested", "chat-requests", "answers-updated", "model-commands"):
        dead_letters = {r.header("ce_id") for r in case.records(f"{topic}-dlt")}
        for poison in sorted(case.sent(topic, valid=False)):
            if poison.encode() not in dead_letters:
                yield f"{poison} is no dead letter"
    told = {data_of(record)["elder_id"] for record in case.records("dataset-ready")}
    for operation in case.operations:
        asked = operation.event_id in case.sent("answers-updated")
        if asked and operation.elder_id not in told:
            yield f"{operation.event_id} has no dataset-ready"
