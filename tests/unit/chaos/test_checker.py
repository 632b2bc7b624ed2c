"""The campaign's checker says nothing of a good run, and notices each fault that is planted."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from schemas.record import Header, Record
from tests.chaos.checker import Verdict, check, is_settled
from tests.chaos.evidence import Case, Evidence, Served
from tests.chaos.workload import ROLLBACK, SENT_AS, SOURCE, Elder, Operation, make_elders
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


def test_a_good_run_is_settled_and_has_no_fault() -> None:
    _, case = good_run()
    assert verdict(case).faults == ()


def job_of(evidence: Planted) -> dict[str, Any]:
    return evidence.ledger[f"{RUN}-A_1"]


def version_of(evidence: Planted) -> dict[str, Any]:
    version: dict[str, Any] = evidence.registry[f"{RUN}-A"]["versions"][0]
    return version


def drop(evidence: Planted, topic: str, event_id: str) -> None:
    kept = [r for r in evidence.topics[topic] if r.header("ce_id") != event_id.encode()]
    assert len(kept) < len(evidence.topics[topic])
    evidence.topics[topic] = kept


def drop_letter(topic: str, evidence: Planted, elders: tuple[Elder, ...]) -> None:
    drop(evidence, f"{topic}-dlt", f"{RUN}-A-{topic}-p")


def add_second_job(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    first = job_of(evidence)
    evidence.ledger["twice"] = first | {"_id": "twice"}


def end_twice(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    data = progress(f"{RUN}-A_1", "failed", 3)
    evidence.tell("train-progress", elders[0], "another end", data)


def tell_another_end(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    drop(evidence, "train-progress", f"{RUN}-A_1/progress/2")
    data = progress(f"{RUN}-A_1", "failed", 2)
    evidence.tell("train-progress", elders[0], f"{RUN}-A_1/progress/2", data)


def answer_for_another(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    drop(evidence, "chat-replies", f"{RUN}-A-q/reply")
    add_reply(evidence, elders[1], f"{RUN}-A-q", "ready")


def answer_by_another(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    drop(evidence, "chat-replies", f"{RUN}-A-q/reply")
    answered: dict[str, Any] = {"elder_id": f"{RUN}-A", "error": None, "sources": []}
    data = answered | {"model": f"afs_elder_{RUN}-B:v1"}
    correlation = ("kafka_correlationId", f"{RUN}-A-q".encode())
    evidence.tell("chat-replies", elders[0], "x", data, correlation)


def answer_from_another(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    drop(evidence, "chat-replies", f"{RUN}-A-q/reply")
    data = {
        "elder_id": f"{RUN}-A",
        "error": None,
        "model": f"afs_elder_{RUN}-A:v1",
        "sources": [{"answer_id": f"{RUN}-B-0"}],
    }
    correlation = ("kafka_correlationId", f"{RUN}-A-q".encode())
    evidence.tell("chat-replies", elders[0], "x", data, correlation)


def mix_jsonl(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    evidence.jsonl[f"{RUN}-A"]["other"] = f"{elders[0].mark} {elders[1].mark}".encode()


def mix_prompt(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    served = evidence.models_served[f"afs_elder_{RUN}-A:v1"]
    other = served.model_copy(update={"text": f"My mark is {elders[1].mark}."})
    evidence.models_served[f"afs_elder_{RUN}-A:v1"] = other


def serve(evidence: Planted, **changed: object) -> None:
    """Let the first elder's tag be something else in Ollama."""
    tag = f"afs_elder_{RUN}-A:v1"
    evidence.models_served[tag] = evidence.models_served[tag].model_copy(update=changed)


def served_by_adapter(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    """An Ollama before 0.34.1 was given the adapter, and no merged file."""
    adapter = version_of(evidence)["gguf_sha256"]
    version_of(evidence)["forms"] = [{"form": "adapter", "sha256": adapter}]
    serve(evidence, adapters=frozenset({adapter}), weights="0" * 64)


def mix_adapter(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    served_by_adapter(evidence, elders)
    serve(evidence, adapters=frozenset({"0" * 64}))


def lose_adapter(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    served_by_adapter(evidence, elders)
    serve(evidence, adapters=frozenset())


def file_of(evidence: Planted, elder: Elder) -> str | None:
    return evidence.models_served[f"afs_elder_{elder.id}:v1"].weights


def serve_her_file(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    serve(evidence, weights=file_of(evidence, elders[1]))


def record_her_file(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    """Both Ollama and the registry have the other's: it was merged with her adapter."""
    serve_her_file(evidence, elders)
    version_of(evidence)["forms"] = [{"form": "merged", "sha256": file_of(evidence, elders[1])}]


def serve_an_earlier_version(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    """It was merged with the adapter of another of her own versions."""
    file = merged_with("another adapter of hers")
    serve(evidence, weights=file)
    version_of(evidence)["forms"] = [{"form": "merged", "sha256": file}]


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


def serve_what_is_left(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    """A death between the registry and Ollama leaves a name: it must be hers all the same."""
    add_version_without_form(evidence)
    tag = f"afs_elder_{RUN}-A:v2"
    evidence.ollama[tag] = tag
    evidence.models_served[tag] = evidence.models_served[f"afs_elder_{RUN}-A:v1"].model_copy(
        update={"weights": "0" * 64}
    )


def come_late(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    evidence.topics["train-progress"].reverse()


def go_back(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    for sequence, percent in ((3, 88), (4, 5)):
        data = progress(f"{RUN}-A_1", "running", sequence) | {"progress": percent}
        evidence.tell("train-progress", elders[0], f"{RUN}-A_1/progress/{sequence}", data)


def err(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    drop(evidence, "model-replies", f"{RUN}-A-m3/reply")
    data = {"command": "rollback", "result": None, "error": {"code": "internal_error"}}
    correlation = ("kafka_correlationId", f"{RUN}-A-m3".encode())
    evidence.tell("model-replies", elders[0], "x", data, correlation)


def refuse_a_chat(code: str, evidence: Planted, elders: tuple[Elder, ...]) -> None:
    drop(evidence, "chat-replies", f"{RUN}-A-q/reply")
    refuse(evidence, elders[0], code)


def take_her_adapter(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    evidence.gguf[f"{RUN}-A"] |= evidence.gguf[f"{RUN}-B"]


def tell_otherwise(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    data = progress(f"{RUN}-A_1", "running", 1)
    evidence.tell("train-progress", elders[0], f"{RUN}-A_1/progress/1", data)


def refuse_the_rollback(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    drop(evidence, "model-replies", f"{RUN}-A-m3/reply")
    roll_back(evidence, elders[0], None)
    model = evidence.registry[f"{RUN}-A"]
    model.update(current=2, versions=[version_of(evidence), version_of(evidence) | {"version": 2}])


def answer_with_other_bytes(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    reply = next(r for r in evidence.topics["chat-replies"] if r.key == elders[0].id.encode())
    other = reply.model_copy(update={"value": (reply.value or b"") + b" "})
    evidence.topics["chat-replies"].append(other)


Plant = Callable[[Planted, tuple[Elder, ...]], object]
LOST: dict[str, Plant] = {
    "is not in the ledger": lambda e, _: e.ledger.pop(f"{RUN}-A_1"),
    "has no end": lambda e, _: job_of(e).update(status="running"),
    "nobody was told": lambda e, _: drop(e, "train-progress", f"{RUN}-A_1/progress/2"),
    "B-q has no reply": lambda e, _: drop(e, "chat-replies", f"{RUN}-B-q/reply"),
    "A-m3 has no reply": lambda e, _: drop(e, "model-replies", f"{RUN}-A-m3/reply"),
    **{f"{topic}-p is no dead letter": partial(drop_letter, topic) for topic in POISONED},
    "has no dataset-ready": lambda e, _: drop(e, "dataset-ready", f"{RUN}-B-d"),
}
DOUBLED: dict[str, Plant] = {
    "has 2 jobs": add_second_job,
    "has several ends": end_twice,
    "has several model-ready": lambda e, elders: e.tell(
        "model-ready", elders[0], "another", {"job_id": f"{RUN}-A_1", "elder_id": f"{RUN}-A"}
    ),
    "the rollback of r1-A went to": lambda e, elders: roll_back(e, elders[0], None),
    "A-q has 2 different replies": answer_with_other_bytes,
    "has 2 different replies": lambda e, elders: add_reply(e, elders[0], f"{RUN}-A-q", "other"),
}
MIXED: dict[str, Plant] = {
    "v1 is not in Ollama": lambda e, _: e.models_served.pop(f"afs_elder_{RUN}-A:v1"),
    "was answered for": answer_for_another,
    "was answered by": answer_by_another,
    "from another's memories": answer_from_another,
    "data set other of": mix_jsonl,
    "v1: r1-B's mark is wrong": mix_prompt,
    f"has the adapter {{'{'0' * 64}'}}": mix_adapter,
    "has the adapter set()": lose_adapter,
    "v1 is served from": serve_her_file,
    "v1 is served from the file of r1-A": serve_her_file,
    "and its adapter gives": serve_an_earlier_version,
    "B:v1 is served from the file of r1-A": record_her_file,
    "v1 is served from None, and not from": lambda e, _: serve(e, weights=None),
    "v2 is served from": serve_what_is_left,
    "r1-A and r1-B have the same adapter": take_her_adapter,
}
OTHER: dict[str, Plant] = {
    "succeeded without model-ready": lambda e, _: drop(e, "model-ready", f"{RUN}-A_1/model-ready"),
    "v1 does not answer": lambda e, _: e.ollama.pop(f"afs_elder_{RUN}-A:v1"),
    "does not answer": lambda e, _: e.silent.add(f"afs_elder_{RUN}-A:v1"),
    "_1 failed: no_answers": lambda e, _: job_of(e).update(
        status="failed", error={"code": "no_answers"}
    ),
    "and {'failed'} was told": tell_another_end,
    "latest is": lambda e, _: e.ollama.update({f"afs_elder_{RUN}-A:latest": "another"}),
    "version 1 answers, and not 2": lambda e, _: e.registry[f"{RUN}-B"]["versions"].append(
        version_of(e) | {"version": 2}
    ),
    "version 2 answers, and not 1": lambda e, _: e.registry[f"{RUN}-A"].update(
        current=2, versions=[version_of(e), version_of(e) | {"version": 2}]
    ),
    "the data set of": lambda e, _: e.jsonl[f"{RUN}-A"].update(
        {version_of(e)["dataset_sha256"]: f"{RUN}Amark, half".encode()}
    ),
    "the adapter of": lambda e, _: e.gguf.update({f"{RUN}-A": set()}),
    "came after": come_late,
    "left in Ollama": lambda e, _: e.ollama.update({f"afs_elder_{RUN}-A:v2-candidate3": "x"}),
    "A-m3 was refused with internal_error": err,
    **{
        f"A-q was refused with {code}": partial(refuse_a_chat, code)
        for code in ("internal_error", "model_not_ready", "unknown_elder", "ollama_refused")
    },
    "r1-A_1: 1 was told in two ways": tell_otherwise,
    "r1-A_1: from (1, 88) back to (1, 5)": go_back,
    "r1-A: of [] none answers": lambda e, _: e.registry.pop(f"{RUN}-A"),
    "r1-B: of [1] none answers": lambda e, _: e.registry[f"{RUN}-B"].update(current=None),
    "a rollback was refused": refuse_the_rollback,
    "did not succeed, and model-ready was told": lambda e, elders: e.tell(
        "model-ready", elders[2], "x", {"job_id": f"{RUN}-C_1", "elder_id": f"{RUN}-C"}
    ),
    "was told of r1-B": lambda e, elders: e.tell(
        "model-ready", elders[0], "x", {"job_id": f"{RUN}-A_1", "elder_id": f"{RUN}-B"}
    ),
    "uncommitted": lambda e, _: e.left.append("chat-requests/0: 3 of 4"),
}


@pytest.mark.parametrize("said", LOST)
def test_what_is_lost_is_noticed(said: str) -> None:
    found = planted(LOST[said])
    assert any(said in sentence for sentence in found.lost), found


@pytest.mark.parametrize("said", DOUBLED)
def test_what_is_doubled_is_noticed(said: str) -> None:
    found = planted(DOUBLED[said])
    assert any(said in sentence for sentence in found.doubled), found


@pytest.mark.parametrize("said", MIXED)
def test_what_is_mixed_up_is_noticed(said: str) -> None:
    found = planted(MIXED[said])
    assert any(said in sentence for sentence in found.mixed), found


@pytest.mark.parametrize("said", OTHER)
def test_what_differs_from_what_is_told_is_noticed(said: str) -> None:
    found = planted(OTHER[said])
    assert any(said in sentence for sentence in found.other), found


def test_a_repeat_is_no_fault() -> None:
    """Published once more by a relay or a member that died before it could note it."""
    evidence, case = good_run()
    for records in evidence.topics.values():
        records += records
    assert verdict(case).faults == ()


def test_an_adapter_is_no_fault_on_a_host_that_takes_adapters() -> None:
    evidence, case = good_run()
    served_by_adapter(evidence, case.elders)
    assert verdict(case).faults == ()


def test_a_merged_file_that_retention_took_is_no_fault() -> None:
    evidence, case = good_run()
    add_version_without_form(evidence)
    assert verdict(case).faults == ()


def test_what_answers_is_never_gone() -> None:
    evidence, case = good_run()
    version_of(evidence)["forms"] = []
    evidence.models_served.pop(f"afs_elder_{RUN}-A:v1")
    assert verdict(case).mixed == (f"afs_elder_{RUN}-A:v1 is not in Ollama",)


def test_what_the_broker_has_counts_although_the_driver_does_not_know() -> None:
    evidence, case = good_run()
    chat = sent("chat-requests", case.elders[0], "unsure").model_copy(update={"outcome": "unknown"})
    case.operations.append(chat)
    assert verdict(case).faults == ()
    evidence.tell("chat-requests", case.elders[0], "x", {}, (SENT_AS, chat.event_id.encode()))
    assert verdict(case).lost == (f"{chat.event_id} has no reply",)


@pytest.mark.parametrize("said", LOST)
def test_a_run_is_not_settled_while_something_is_missing(said: str) -> None:
    evidence, case = good_run()
    LOST[said](evidence, case.elders)
    assert not is_settled(case)


def test_a_name_that_passes_by_during_the_last_look_is_no_fault() -> None:
    """Whoever wakes up late brings `latest` once more, by such a name."""
    evidence, case = good_run()
    settled = is_settled(case)
    evidence.ollama[f"afs_elder_{RUN}-A:v1-handover1a2b3c4d"] = "x"
    assert not check(case, settled=settled).faults
    assert not is_settled(case)


def planted(plant: Plant) -> Verdict:
    evidence, case = good_run()
    plant(evidence, case.elders)
    return verdict(case)
