"""The evidence of a run, planted: a good run, and what a test changes in it."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from schemas.record import Header, Record
from tests.chaos.checker import Verdict, check, is_settled
from tests.chaos.evidence import Case, Evidence, Served
from tests.chaos.workload import ROLLBACK, SOURCE, Elder, Operation, make_elders
from tests.fakes.records import record

RUN = "r1"
POISONED = ("train-requested", "chat-requests", "answers-updated", "model-commands")


def progress(job: str, status: str, sequence: int) -> dict[str, Any]:
    """A job's event, as far as the checker reads it."""
    far = {"attempt": 1, "progress": 0}
    return {"job_id": job, "status": status, "sequence": sequence, **far}


class Planted(Evidence):
    """Evidence that a test may change."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Record]] = defaultdict(list)
        self.left: list[str] = []
        self.ledger: dict[str, dict[str, Any]] = {}
        self.registry: dict[str, dict[str, Any]] = {}
        self.jsonl: dict[str, dict[str, bytes]] = {}
        self.gguf: dict[str, set[str]] = {}
        self.ollama: dict[str, str] = {}
        self.models_served: dict[str, Served] = {}
        self.silent: set[str] = set()

    def records(self, topic: str, key: bytes) -> list[Record]:
        return [r for r in self.topics[topic] if r.key == key]

    def read(self) -> None:
        pass

    def uncommitted(self) -> list[str]:
        return self.left

    def jobs(self, elders: list[str]) -> list[dict[str, Any]]:
        return [job for job in self.ledger.values() if job["elder_id"] in elders]

    def models(self, elders: list[str]) -> list[dict[str, Any]]:
        return [model for model in self.registry.values() if model["_id"] in elders]

    def datasets(self, elder_id: str) -> dict[str, bytes]:
        return self.jsonl.get(elder_id, {})

    def adapters(self, elder_id: str) -> set[str]:
        return self.gguf.get(elder_id, set())

    def merged(self, elder_id: str, adapter: str) -> str | None:
        return merged_with(adapter) if adapter in self.adapters(elder_id) else None

    def tags(self) -> dict[str, str]:
        return self.ollama

    def served(self, tag: str) -> Served | None:
        return self.models_served.get(tag)

    def answers(self, tag: str) -> bool:
        return tag not in self.silent

    def tell(self, topic: str, elder: Elder, event_id: str, data: Any, *more: Header) -> None:
        value = json.dumps(data).encode()
        headers = (("ce_id", event_id.encode()), *more)
        self.topics[topic].append(record(value, *headers, topic=topic, key=elder.id.encode()))


def merged_with(adapter: str) -> str:
    """The hash of base and adapter in one file."""
    return hashlib.sha256(f"base and {adapter}".encode()).hexdigest()


def good_run() -> tuple[Planted, Case]:
    """What a run leaves behind when nothing went wrong."""
    evidence = Planted()
    elders = make_elders(RUN)
    operations = []
    for elder in elders:
        operations.append(sent("train-requested", elder, "t"))
        add_job(evidence, elder, f"{elder.id}-t", ready=bool(elder.answers))
        if elder.answers:
            operations += [sent("answers-updated", elder, "u"), sent("chat-requests", elder, "q")]
            evidence.tell("dataset-ready", elder, f"{elder.id}-d", {"elder_id": elder.id})
            add_model(evidence, elder)
            add_reply(evidence, elder, f"{elder.id}-q", "ready")
    operations.append(sent("chat-requests", elders[2], "q"))
    refuse(evidence, elders[2], "model_not_ready")
    operations.append(sent("model-commands", elders[0], ROLLBACK))
    roll_back(evidence, elders[0], 1)
    for topic in POISONED:
        poison = sent(topic, elders[0], f"{topic}-p", valid=False)
        operations.append(poison)
        evidence.tell(f"{topic}-dlt", elders[0], poison.event_id, {})
    return evidence, Case(evidence, elders, operations)


def sent(topic: str, elder: Elder, name: str, *, valid: bool = True) -> Operation:
    return Operation(
        topic=topic, event_id=f"{elder.id}-{name}", elder_id=elder.id, valid=valid, outcome="ok"
    )


def add_job(evidence: Planted, elder: Elder, request: str, *, ready: bool) -> None:
    job = f"{elder.id}_1"
    status = "succeeded" if ready else "failed"
    evidence.ledger[job] = {
        "_id": job,
        "elder_id": elder.id,
        "request_id": request,
        "request_source": SOURCE,
        "status": status,
        "has_pending": False,
        "version": 1 if ready else None,
        "error": None if ready else {"code": "no_answers"},
    }
    for sequence, told in ((1, "queued"), (2, status)):
        data = progress(job, told, sequence)
        evidence.tell("train-progress", elder, f"{job}/progress/{sequence}", data)
    if ready:
        data = {"job_id": job, "elder_id": elder.id}
        evidence.tell("model-ready", elder, f"{job}/model-ready", data)


def add_model(evidence: Planted, elder: Elder) -> None:
    content = f"My mark is {elder.mark}.".encode()
    dataset = hashlib.sha256(content).hexdigest()
    gguf = hashlib.sha256(f"gguf of {elder.id}".encode()).hexdigest()
    tag = f"afs_elder_{elder.id}:v1"
    merged = merged_with(gguf)
    version = {
        "version": 1,
        "ready": True,
        "tag": tag,
        "dataset_sha256": dataset,
        "gguf_sha256": gguf,
        "forms": [{"form": "merged", "sha256": merged}],
    }
    evidence.registry[elder.id] = {"_id": elder.id, "current": 1, "versions": [version]}
    evidence.jsonl[elder.id] = {dataset: content}
    evidence.gguf[elder.id] = {gguf}
    evidence.ollama |= {tag: f"digest of {tag}", f"afs_elder_{elder.id}:latest": f"digest of {tag}"}
    evidence.models_served[tag] = Served(
        text=content.decode(), adapters=frozenset(), weights=merged
    )


def add_reply(evidence: Planted, elder: Elder, request: str, text: str) -> None:
    data = {
        "elder_id": elder.id,
        "reply": text,
        "error": None,
        "model": f"afs_elder_{elder.id}:v1",
        "sources": [{"answer_id": f"{elder.id}-0"}],
    }
    correlation = ("kafka_correlationId", request.encode())
    evidence.tell("chat-replies", elder, f"{request}/reply", data, correlation)


def refuse(evidence: Planted, elder: Elder, code: str) -> None:
    told: dict[str, Any] = {"elder_id": elder.id, "model": None, "sources": []}
    data = told | {"error": {"code": code}}
    correlation = ("kafka_correlationId", f"{elder.id}-q".encode())
    evidence.tell("chat-replies", elder, f"{elder.id}-q/reply", data, correlation)


def roll_back(evidence: Planted, elder: Elder, version: int | None) -> None:
    data = {"command": "rollback", "result": version and {"current": version}}
    request = f"{elder.id}-{ROLLBACK}"
    correlation = ("kafka_correlationId", request.encode())
    evidence.tell("model-replies", elder, f"{request}/reply", data, correlation)


def verdict(case: Case) -> Verdict:
    return check(case, settled=is_settled(case))


def job_of(evidence: Planted) -> dict[str, Any]:
    return evidence.ledger[f"{RUN}-A_1"]


def version_of(evidence: Planted) -> dict[str, Any]:
    version: dict[str, Any] = evidence.registry[f"{RUN}-A"]["versions"][0]
    return version


def drop(evidence: Planted, topic: str, event_id: str) -> None:
    kept = [r for r in evidence.topics[topic] if r.header("ce_id") != event_id.encode()]
    assert len(kept) < len(evidence.topics[topic])
    evidence.topics[topic] = kept


def serve(evidence: Planted, **changed: object) -> None:
    """Let the first elder's tag be something else in Ollama."""
    tag = f"afs_elder_{RUN}-A:v1"
    evidence.models_served[tag] = evidence.models_served[tag].model_copy(update=changed)


def served_by_adapter(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    """An Ollama before 0.34.1 was given the adapter, and no merged file."""
    adapter = version_of(evidence)["gguf_sha256"]
    version_of(evidence)["forms"] = [{"form": "adapter", "sha256": adapter}]
    serve(evidence, adapters=frozenset({adapter}), weights="0" * 64)


def add_version_without_form(evidence: Planted) -> None:
    """A version after the one that answers, and of which retention took the merged file."""
    evidence.registry[f"{RUN}-A"]["versions"].append(
        version_of(evidence)
        | {"version": 2, "tag": f"afs_elder_{RUN}-A:v2", "forms": [], "job_id": "x"}
    )
    job = job_of(evidence)
    evidence.ledger["second"] = job | {"_id": "second", "request_id": "second", "version": 2}
    elder = make_elders(RUN)[0]
    evidence.tell("train-progress", elder, "second/1", progress("second", "succeeded", 1))
    evidence.tell("model-ready", elder, "second/ready", {"job_id": "second", "elder_id": elder.id})


Plant = Callable[[Planted, tuple[Elder, ...]], object]


def planted(plant: Plant) -> Verdict:
    evidence, case = good_run()
    plant(evidence, case.elders)
    return verdict(case)
