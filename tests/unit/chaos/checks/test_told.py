"""The checker notices what was told and is not so."""

from functools import partial

import pytest

from tests.chaos.workload import Elder
from tests.unit.chaos.planted import RUN, Plant, Planted, drop, job_of, planted, progress, refuse


def tell_another_end(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    drop(evidence, "train-progress", f"{RUN}-A_1/progress/2")
    data = progress(f"{RUN}-A_1", "failed", 2)
    evidence.tell("train-progress", elders[0], f"{RUN}-A_1/progress/2", data)


def err(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    drop(evidence, "model-replies", f"{RUN}-A-m3/reply")
    data = {"command": "rollback", "result": None, "error": {"code": "internal_error"}}
    correlation = ("kafka_correlationId", f"{RUN}-A-m3".encode())
    evidence.tell("model-replies", elders[0], "x", data, correlation)


def refuse_a_chat(code: str, evidence: Planted, elders: tuple[Elder, ...]) -> None:
    drop(evidence, "chat-replies", f"{RUN}-A-q/reply")
    refuse(evidence, elders[0], code)


TOLD: dict[str, Plant] = {
    "succeeded without model-ready": lambda e, _: drop(e, "model-ready", f"{RUN}-A_1/model-ready"),
    "v1 does not answer": lambda e, _: e.ollama.pop(f"afs_elder_{RUN}-A:v1"),
    "does not answer": lambda e, _: e.silent.add(f"afs_elder_{RUN}-A:v1"),
    "_1 failed: no_answers": lambda e, _: job_of(e).update(
        status="failed", error={"code": "no_answers"}
    ),
    "and {'failed'} was told": tell_another_end,
    "A-m3 was refused with internal_error": err,
    **{
        f"A-q was refused with {code}": partial(refuse_a_chat, code)
        for code in ("internal_error", "model_not_ready", "unknown_elder", "ollama_refused")
    },
    "did not succeed, and model-ready was told": lambda e, elders: e.tell(
        "model-ready", elders[2], "x", {"job_id": f"{RUN}-C_1", "elder_id": f"{RUN}-C"}
    ),
    "was told of r1-B": lambda e, elders: e.tell(
        "model-ready", elders[0], "x", {"job_id": f"{RUN}-A_1", "elder_id": f"{RUN}-B"}
    ),
}


@pytest.mark.parametrize("said", TOLD)
def test_what_is_untrue_is_noticed(said: str) -> None:
    found = planted(TOLD[said])
    assert any(said in sentence for sentence in found.other), found
