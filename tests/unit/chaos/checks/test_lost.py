"""The checker notices each thing that is lost, and waits for it before."""

from functools import partial

import pytest

from tests.chaos.checker import is_settled
from tests.chaos.workload import SENT_AS, Elder
from tests.unit.chaos.planted import (
    POISONED,
    RUN,
    Plant,
    Planted,
    drop,
    good_run,
    job_of,
    planted,
    sent,
    verdict,
)


def drop_dead_letter(topic: str, evidence: Planted, elders: tuple[Elder, ...]) -> None:
    drop(evidence, f"{topic}-dlt", f"{RUN}-A-{topic}-p")


LOST: dict[str, Plant] = {
    "is not in the ledger": lambda e, _: e.ledger.pop(f"{RUN}-A_1"),
    "has no end": lambda e, _: job_of(e).update(status="running"),
    "nobody was told": lambda e, _: drop(e, "train-progress", f"{RUN}-A_1/progress/2"),
    "B-q has no reply": lambda e, _: drop(e, "chat-replies", f"{RUN}-B-q/reply"),
    "A-m3 has no reply": lambda e, _: drop(e, "model-replies", f"{RUN}-A-m3/reply"),
    **{f"{topic}-p is no dead letter": partial(drop_dead_letter, topic) for topic in POISONED},
    "has no dataset-ready": lambda e, _: drop(e, "dataset-ready", f"{RUN}-B-d"),
}


@pytest.mark.parametrize("said", LOST)
def test_what_is_lost_is_noticed(said: str) -> None:
    found = planted(LOST[said])
    assert any(said in sentence for sentence in found.lost), found


@pytest.mark.parametrize("said", LOST)
def test_a_run_is_not_settled_while_something_is_missing(said: str) -> None:
    evidence, case = good_run()
    LOST[said](evidence, case.elders)
    assert not is_settled(case)


def test_what_the_broker_has_counts_although_the_driver_does_not_know() -> None:
    evidence, case = good_run()
    chat = sent("chat-requests", case.elders[0], "unsure").model_copy(update={"outcome": "unknown"})
    case.operations.append(chat)
    assert verdict(case).faults == ()
    evidence.tell("chat-requests", case.elders[0], "x", {}, (SENT_AS, chat.event_id.encode()))
    assert verdict(case).lost == (f"{chat.event_id} has no reply",)
