"""What is told is true: ends, `model-ready` and refusals agree with the ledger and with Ollama."""

from collections.abc import Iterable
from typing import Any

from schemas.errors import (
    DeadlineExceeded,
    JobAlreadyEnded,
    ModelNotReady,
    UnknownElder,
    UnknownJob,
    UnknownVersion,
)
from schemas.identifiers import model_tag
from tests.chaos.checks.outcomes import (
    REPLIES,
    data_of,
    ends_by_job,
    jobs_by_request,
    ready_by_job,
    request_of,
)
from tests.chaos.checks.served import may_be_gone
from tests.chaos.evidence import Case
from tests.chaos.workload import doomed_job

# The codes that a valid request may be refused with, by its topic.
_REFUSALS = {
    "chat-requests": {DeadlineExceeded.code},
    "model-commands": {UnknownJob.code, JobAlreadyEnded.code, UnknownVersion.code},
}
# The codes for the elder of whom upstream has no answers.
_OF_NOBODY = {UnknownElder.code, ModelNotReady.code}


def untrue(case: Case) -> Iterable[str]:
    """Say where jobs, events and replies disagree with each other or with what is there."""
    yield from _ends_untrue(case)
    yield from _ready_of_another(case)
    yield from _wrongly_refused(case)


def _ends_untrue(case: Case) -> Iterable[str]:
    """A job has the end that it was told to have; one that succeeded has a model that answers."""
    ready, ends = ready_by_job(case), ends_by_job(case)
    tags, removed = case.evidence.tags(), _removed(case)
    for job in (job for found in jobs_by_request(case).values() for job in found):
        if job["status"] not in _possible_ends(case, job):
            yield f"job {job['_id']} {job['status']}: {(job['error'] or {}).get('code')}"
        told = {status for _, status in ends.get(job["_id"], ())}
        if told - {job["status"]}:
            yield f"job {job['_id']} {job['status']} and {told} was told"
        if job["status"] == "succeeded":
            if job["_id"] not in ready:
                yield f"job {job['_id']} succeeded without model-ready"
            tag = model_tag(job["elder_id"], job["version"])
            is_there = tag in tags and case.evidence.answers(tag)
            if not is_there and (tag in tags or tag not in removed):
                yield f"{tag} does not answer"


def _removed(case: Case) -> set[str]:
    """Return the tags that retention may have removed from Ollama."""
    return {
        version["tag"]
        for model in case.models()
        for version in model["versions"]
        if may_be_gone(model, version)
    }


def _wrongly_refused(case: Case) -> Iterable[str]:
    """A refusal tells the truth whatever the fault: an asked elder's models are there."""
    for topic, allowed in _REFUSALS.items():
        for record in case.records(REPLIES[topic]):
            told = data_of(record)
            code = (told.get("error") or {}).get("code")
            of_nobody = topic == "chat-requests" and told["elder_id"] == case.elders[-1].id
            if code is not None and code not in allowed | (_OF_NOBODY if of_nobody else set()):
                yield f"{request_of(record)} was refused with {code}"


def _ready_of_another(case: Case) -> Iterable[str]:
    """`model-ready` names a job that succeeded, and its elder."""
    jobs = {job["_id"]: job for job in case.jobs()}
    for record in case.records("model-ready"):
        told = data_of(record)
        job = jobs.get(told["job_id"])
        if job is None or job["status"] != "succeeded":
            yield f"{told['job_id']} did not succeed, and model-ready was told"
        elif told["elder_id"] != job["elder_id"]:
            yield f"{told['job_id']} of {job['elder_id']} was told of {told['elder_id']}"


def _possible_ends(case: Case, job: dict[str, Any]) -> set[str]:
    if job["elder_id"] == case.elders[-1].id:
        return {"failed"}  # Upstream has no answers of hers.
    if job["_id"] in {doomed_job(elder) for elder in case.elders}:
        return {"succeeded", "cancelled"}  # The cancel may come too late, or before the job.
    return {"succeeded"}
