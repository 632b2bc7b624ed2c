"""The checker: decides the invariant from Kafka, MongoDB, Ollama and the disk alone.

It knows what was sent (the driver's operations) and nothing of how the service works. What the
broker has must be dealt with once; what the driver does not know of may be there or not.
"""

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from schemas.base import Frozen
from schemas.errors import (
    DeadlineExceeded,
    JobAlreadyEnded,
    ModelNotReady,
    UnknownElder,
    UnknownJob,
    UnknownVersion,
)
from schemas.identifiers import current_tag, is_passing, model_name, model_tag
from schemas.record import Record
from tests.chaos.evidence import Case
from tests.chaos.served import may_be_gone, mixed_models
from tests.chaos.workload import ROLLBACK, SOURCE, Elder, doomed_job

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
_REPLIES = {"chat-requests": "chat-replies", "model-commands": "model-replies"}
# What a request may be told in place of an answer, by its topic; and of whom nothing is known.
_REFUSALS = {
    "chat-requests": {DeadlineExceeded.code},
    "model-commands": {UnknownJob.code, JobAlreadyEnded.code, UnknownVersion.code},
}
_OF_NOBODY = {UnknownElder.code, ModelNotReady.code}


class Verdict(Frozen):
    """What is wrong, in sentences; nothing at all in a good run."""

    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """All that is wrong."""
        return (*self.lost, *self.doubled, *self.mixed, *self.other)


def is_settled(case: Case) -> bool:
    """Say whether nothing is under way or missing any more."""
    case.evidence.read()
    if any(True for _ in _lost(case)) or any(job["has_pending"] for job in case.jobs()):
        return False
    if any(True for _ in _left(case)):
        return False
    return not case.evidence.uncommitted()


def check(case: Case, *, settled: bool) -> Verdict:
    """Decide the invariant."""
    case.evidence.read()
    left = [] if settled else case.evidence.uncommitted()
    other = [] if settled else [f"not settled in time; uncommitted: {left}"]
    return Verdict(
        lost=tuple(_lost(case)),
        doubled=tuple(_doubled(case)),
        mixed=tuple(_mixed(case)),
        other=(*other, *_unlike_what_is_told(case), *(() if settled else _left(case))),
    )


# What is there ---------------------------------------------------------------------------------


def replies_by_request(case: Case, topic: str) -> dict[str, set[tuple[bytes | None, str]]]:
    """The different last replies to each request; a repeat is the same, byte for byte."""
    found: dict[str, set[tuple[bytes | None, str]]] = defaultdict(set)
    for record in case.records(_REPLIES[topic]):
        if record.header("final") != b"false":
            request = _request_of(record)
            found[request].add((record.header("ce_id"), (record.value or b"").decode()))
    return dict(found)


def ends_by_job(case: Case) -> dict[str, set[tuple[bytes | None, str]]]:
    """The different terminal events of each job."""
    found: dict[str, set[tuple[bytes | None, str]]] = defaultdict(set)
    for record in case.records("train-progress"):
        told = _data(record)
        if told["status"] in TERMINAL:
            found[told["job_id"]].add((record.header("ce_id"), told["status"]))
    return dict(found)


def ready_by_job(case: Case) -> dict[str, set[bytes | None]]:
    """The ids of each job's `model-ready`."""
    found: dict[str, set[bytes | None]] = defaultdict(set)
    for record in case.records("model-ready"):
        found[_data(record)["job_id"]].add(record.header("ce_id"))
    return dict(found)


def jobs_by_request(case: Case) -> dict[str, list[dict[str, Any]]]:
    """The ledger's jobs of each request."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for job in case.jobs():
        if job["request_source"] == SOURCE:
            found[job["request_id"]].append(job)
    return dict(found)


def rollbacks(case: Case, elder: Elder) -> set[int | None]:
    """To which versions the replies say that an elder's model went back; None for an error."""
    replies = replies_by_request(case, "model-commands").get(f"{elder.id}-{ROLLBACK}", set())
    bodies = [json.loads(body) for _, body in replies]
    return {body["result"]["current"] if body["result"] else None for body in bodies}


# The invariant ---------------------------------------------------------------------------------


def _lost(case: Case) -> Iterable[str]:
    jobs, ends = jobs_by_request(case), ends_by_job(case)
    for request in sorted(case.sent("train-requested")):
        if request not in jobs:
            yield f"{request} is not in the ledger"
    for job in (job for found in jobs.values() for job in found):
        if job["status"] not in TERMINAL:
            yield f"job {job['_id']} has no end: {job['status']}"
        elif job["_id"] not in ends:
            yield f"job {job['_id']} ended and nobody was told"
    for topic in _REPLIES:
        for request in sorted(case.sent(topic) - replies_by_request(case, topic).keys()):
            yield f"{request} has no reply"
    for topic in ("train-requested", "chat-requests", "answers-updated", "model-commands"):
        letters = {r.header("ce_id") for r in case.records(f"{topic}-dlt")}
        for poison in sorted(case.sent(topic, valid=False)):
            if poison.encode() not in letters:
                yield f"{poison} is no dead letter"
    told = {_data(record)["elder_id"] for record in case.records("dataset-ready")}
    for operation in case.operations:
        asked = operation.event_id in case.sent("answers-updated")
        if asked and operation.elder_id not in told:
            yield f"{operation.event_id} has no dataset-ready"


def _doubled(case: Case) -> Iterable[str]:
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


def _mixed(case: Case) -> Iterable[str]:
    for record in case.records("chat-replies"):
        told = _data(record)
        request = _request_of(record)
        asked = {o.elder_id for o in case.operations if o.event_id == request}
        if told["error"] is None and {told["elder_id"]} != asked:
            yield f"{request} was answered for {told['elder_id']}"
        if told["model"] and told["model"].split(":")[0] != model_name(told["elder_id"]):
            yield f"{request} was answered by {told['model']}"
        if any(not s["answer_id"].startswith(f"{told['elder_id']}-") for s in told["sources"]):
            yield f"{request} was answered from another's memories"
    for elder, other in itertools.combinations(case.elders, 2):
        if case.evidence.adapters(elder.id) & case.evidence.adapters(other.id):
            yield f"{elder.id} and {other.id} have the same adapter"
    for elder in case.elders:
        for name, content in case.evidence.datasets(elder.id).items():
            for other in case.elders:
                if (other.mark.encode() in content) != (other is elder):
                    yield f"data set {name} of {elder.id}: {other.id}'s mark is wrong"
    yield from mixed_models(case)


def _unlike_what_is_told(case: Case) -> Iterable[str]:
    """A job that succeeded has a model that answers; the names agree; the files are whole."""
    ready = ready_by_job(case)
    digests, ends = case.evidence.tags(), ends_by_job(case)
    gone = {
        version["tag"]
        for model in case.models()
        for version in model["versions"]
        if may_be_gone(model, version)
    }
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
            is_there = tag in digests and case.evidence.answers(tag)
            if not is_there and (tag in digests or tag not in gone):
                yield f"{tag} does not answer"
    yield from _ready_of_another(case)
    yield from _wrongly_refused(case)
    models = {model["_id"]: model for model in case.models()}
    served = {job["elder_id"] for job in case.jobs() if job["status"] == "succeeded"}
    for elder_id in sorted(served):
        model = models.get(elder_id)
        released = [v["version"] for v in model["versions"] if v["ready"]] if model else []
        if model is None or model["current"] not in released:
            yield f"{elder_id}: of {released} none answers"
        else:
            yield from _unsound(case, elder_id, model, released, digests)
    yield from _disordered(case)


def _wrongly_refused(case: Case) -> Iterable[str]:
    """Whatever the fault, a refusal says what is so: her models are there when she is asked."""
    for topic, allowed in _REFUSALS.items():
        for record in case.records(_REPLIES[topic]):
            told = _data(record)
            code = (told.get("error") or {}).get("code")
            of_nobody = topic == "chat-requests" and told["elder_id"] == case.elders[-1].id
            if code is not None and code not in allowed | (_OF_NOBODY if of_nobody else set()):
                yield f"{_request_of(record)} was refused with {code}"


def _ready_of_another(case: Case) -> Iterable[str]:
    """`model-ready` is told of jobs that succeeded, and of whom they are."""
    jobs = {job["_id"]: job for job in case.jobs()}
    for record in case.records("model-ready"):
        told = _data(record)
        job = jobs.get(told["job_id"])
        if job is None or job["status"] != "succeeded":
            yield f"{told['job_id']} did not succeed, and model-ready was told"
        elif told["elder_id"] != job["elder_id"]:
            yield f"{told['job_id']} of {job['elder_id']} was told of {told['elder_id']}"


def _possible_ends(case: Case, job: dict[str, Any]) -> set[str]:
    if job["elder_id"] == case.elders[-1].id:
        return {"failed"}  # Upstream knows nothing of her.
    if job["_id"] in {doomed_job(elder) for elder in case.elders}:
        return {"succeeded", "cancelled"}  # The cancel may come late, or before the job.
    return {"succeeded"}


def _left(case: Case) -> Iterable[str]:
    """Names that are to be there for a moment only; they may be just in use.

    So a run waits until none is there, and none is a fault that comes afterwards: whoever wakes
    up late brings `latest` once more. What nobody takes away is there when all is looked over.
    """
    ours = tuple(f"{model_name(elder.id)}:" for elder in case.elders)
    for tag in case.evidence.tags():
        if tag.startswith(ours) and is_passing(tag):
            yield f"left in Ollama: {tag}"


def _unsound(
    case: Case,
    elder_id: str,
    model: dict[str, Any],
    released: list[int],
    digests: dict[str, str],
) -> Iterable[str]:
    current = next(v for v in model["versions"] if v["version"] == model["current"])
    elder = next(elder for elder in case.elders if elder.id == elder_id)
    rolled_back = rollbacks(case, elder)
    if None in rolled_back and len(released) > 1:
        yield f"{elder_id}: a rollback was refused, although {released} are there"
    wanted = rolled_back - {None} or {max(released)}
    if current["version"] not in wanted:
        names = " or ".join(sorted(str(version) for version in wanted))
        yield f"{elder_id}: version {current['version']} answers, and not {names}"
    latest = digests.get(current_tag(elder_id))
    if latest is None or latest != digests.get(current["tag"]):
        yield f"{elder_id}: latest is {latest}, {current['tag']} {digests.get(current['tag'])}"
    jsonl = case.evidence.datasets(elder_id).get(current["dataset_sha256"], b"")
    if hashlib.sha256(jsonl).hexdigest() != current["dataset_sha256"]:
        yield f"{elder_id}: the data set of {current['tag']} is not whole"
    found = case.evidence.adapters(elder_id)
    if current["gguf_sha256"] not in found:
        wanted = current["gguf_sha256"]
        yield f"{elder_id}: the adapter of {current['tag']} is {found}, not {wanted}"


def _disordered(case: Case) -> Iterable[str]:
    """Of each job, what is new comes in order and goes on; a repeat says nothing new."""
    newest: dict[str, int] = {}
    furthest: dict[str, tuple[int, int]] = {}
    seen: dict[tuple[str, int], bytes | None] = {}
    for record in case.records("train-progress"):
        told = _data(record)
        job, sequence = told["job_id"], told["sequence"]
        if (job, sequence) in seen:
            if seen[job, sequence] != record.value:
                yield f"job {job}: {sequence} was told in two ways"
            continue
        seen[job, sequence] = record.value
        if sequence < newest.get(job, 0):
            yield f"job {job}: {sequence} came after {newest[job]}"
            continue
        newest[job] = sequence
        how_far = (told["attempt"], told["progress"])
        if how_far < furthest.get(job, (0, 0)):
            yield f"job {job}: from {furthest[job]} back to {how_far} (attempt, progress)"
        furthest[job] = how_far


def _request_of(record: Record) -> str:
    """Which request a reply answers."""
    return (record.header("kafka_correlationId") or b"").decode()


def _data(record: Record) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(record.value or b"{}")
    return data
