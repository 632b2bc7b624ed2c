"""The checker notices events of a job that come late, go back or differ."""

import pytest

from tests.chaos.workload import Elder
from tests.unit.chaos.planted import RUN, Plant, Planted, planted, progress


def come_late(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    evidence.topics["train-progress"].reverse()


def go_back(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    for sequence, percent in ((3, 88), (4, 5)):
        data = progress(f"{RUN}-A_1", "running", sequence) | {"progress": percent}
        evidence.tell("train-progress", elders[0], f"{RUN}-A_1/progress/{sequence}", data)


def tell_otherwise(evidence: Planted, elders: tuple[Elder, ...]) -> None:
    data = progress(f"{RUN}-A_1", "running", 1)
    evidence.tell("train-progress", elders[0], f"{RUN}-A_1/progress/1", data)


ORDER: dict[str, Plant] = {
    "came after": come_late,
    "r1-A_1: 1 was told in two ways": tell_otherwise,
    "r1-A_1: from (1, 88) back to (1, 5)": go_back,
}


@pytest.mark.parametrize("said", ORDER)
def test_what_is_out_of_order_is_noticed(said: str) -> None:
    found = planted(ORDER[said])
    assert any(said in sentence for sentence in found.other), found
