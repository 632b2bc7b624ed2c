"""Nothing is done twice: a request has one job, one end and one reply, however often it came."""

from collections.abc import Iterable

from tests.chaos.checks.outcomes import (
    ends_by_job,
    jobs_by_request,
    ready_by_job,
    replies_by_request,
    rollbacks,
)
from tests.chaos.evidence import Case


def doubled(case: Case) -> Iterable[str]:
    """Say what was done twice, or told in two ways."""
    for request, jobs in jobs_by_request(case).items():
        if len(jobs) > 1:
            yield f"{request} has {len(jobs)} jobs"
    for job, ends in ends_by_job(case).items():
        if len(ends) > 1:
            yield f"job {job} has several ends: {sorted(ends, key=str)}"
    for job, ids in ready_by_job(case).items():
        if len(ids) > 1:
            yield f"job {job} has several model-ready: {sorted(ids, key=str)}"
    for request, replies in replies_by_request(case, "chat-requests").items():
        if len(replies) > 1:
            yield f"{request} has {len(replies)} different replies"
    for elder in case.elders:
        if len(rolled_back := rollbacks(case, elder)) > 1:
            yield f"the rollback of {elder.id} went to {sorted(rolled_back, key=str)}"
