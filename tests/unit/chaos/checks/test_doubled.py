"""The checker notices each thing that was done twice; a repeat alone is no fault."""

import pytest

from tests.chaos.workload import Elder
from tests.unit.chaos.planted import (
    RUN,
    Plant,
    Planted,
    add_reply,
    good_run,
    job_of,
    planted,
    progress,
    roll_back,
    verdict,
)


def add_second_job(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    first = job_of(evidence)
    evidence.ledger["twice"] = first | {"_id": "twice"}


def end_twice(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    data = progress(f"{RUN}-A_1", "failed", 3)
    evidence.tell("train-progress", elders[0], "another end", data)


def answer_with_other_bytes(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    reply = next(r for r in evidence.topics["chat-replies"] if r.key == elders[0].id.encode())
    other = reply.model_copy(update={"value": (reply.value or b"") + b" "})
    evidence.topics["chat-replies"].append(other)


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


@pytest.mark.parametrize("said", DOUBLED)
def test_what_is_doubled_is_noticed(said: str) -> None:
    found = planted(DOUBLED[said])
    assert any(said in sentence for sentence in found.doubled), found


def test_a_repeat_is_no_fault() -> None:
    """Published once more by a relay or a member that died before it could note it."""
    evidence, case = good_run()
    for records in evidence.topics.values():
        records += records
    assert verdict(case).faults == ()
