"""The checker notices a wrong current version, and what is left over or uncommitted."""

import pytest

from tests.chaos.checker import check, is_settled
from tests.chaos.workload import Elder
from tests.unit.chaos.planted import (
    RUN,
    Plant,
    Planted,
    drop,
    good_run,
    planted,
    roll_back,
    version_of,
)


def refuse_the_rollback(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    drop(evidence, "model-replies", f"{RUN}-A-m3/reply")
    roll_back(evidence, elders[0], None)
    model = evidence.registry[f"{RUN}-A"]
    model.update(current=2, versions=[version_of(evidence), version_of(evidence) | {"version": 2}])


CURRENT: dict[str, Plant] = {
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
    "left in Ollama": lambda e, _: e.ollama.update({f"afs_elder_{RUN}-A:v2-candidate3": "x"}),
    "r1-A: of [] none answers": lambda e, _: e.registry.pop(f"{RUN}-A"),
    "r1-B: of [1] none answers": lambda e, _: e.registry[f"{RUN}-B"].update(current=None),
    "a rollback was refused": refuse_the_rollback,
    "uncommitted": lambda e, _: e.left.append("chat-requests/0: 3 of 4"),
}


@pytest.mark.parametrize("said", CURRENT)
def test_wrong_current_version_is_noticed(said: str) -> None:
    found = planted(CURRENT[said])
    assert any(said in sentence for sentence in found.other), found


def test_a_name_that_passes_by_during_the_last_look_is_no_fault() -> None:
    """Whoever wakes up late brings `latest` once more, by such a name."""
    evidence, case = good_run()
    settled = is_settled(case)
    evidence.ollama[f"afs_elder_{RUN}-A:v1-handover1a2b3c4d"] = "x"
    assert not check(case, settled=settled).faults
    assert not is_settled(case)
