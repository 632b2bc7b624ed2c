"""The checker notices whatever of one elder reached another."""

from typing import Any

import pytest

from tests.chaos.workload import Elder
from tests.unit.chaos.planted import (
    RUN,
    Plant,
    Planted,
    add_reply,
    add_version_without_form,
    drop,
    good_run,
    merged_with,
    planted,
    serve,
    served_by_adapter,
    verdict,
    version_of,
)


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


def serve_what_is_left(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    """A death between the registry and Ollama leaves a name: it must be hers all the same."""
    add_version_without_form(evidence)
    tag = f"afs_elder_{RUN}-A:v2"
    evidence.ollama[tag] = tag
    evidence.models_served[tag] = evidence.models_served[f"afs_elder_{RUN}-A:v1"].model_copy(
        update={"weights": "0" * 64}
    )


def take_her_adapter(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    evidence.gguf[f"{RUN}-A"] |= evidence.gguf[f"{RUN}-B"]


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


@pytest.mark.parametrize("said", MIXED)
def test_what_is_mixed_up_is_noticed(said: str) -> None:
    found = planted(MIXED[said])
    assert any(said in sentence for sentence in found.mixed), found


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
