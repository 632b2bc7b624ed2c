"""The points around Kafka: a dead letter passes them whichever way it is published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.kafka import KafkaSettings
from config.metrics import Metrics
from consumers.kafka.loop import ConsumerLoop
from producers.publisher import KafkaPublisher, Publication
from schemas.errors import KafkaUnavailable
from tests.chaos.faults import NONE, Fault
from tests.chaos.injector import Injector, Plan
from tests.chaos.points import _around_kafka

DEAD_LETTER = Publication(topic="train-requested-dlt", key=b"E", value=b"{}", headers=())
OTHER = DEAD_LETTER.model_copy(update={"topic": "train-progress"})
WAYS: dict[str, Callable[[KafkaPublisher, Publication], object]] = {
    "publish": lambda publisher, one: publisher.publish(one).result(timeout=5),
    "confirm": lambda publisher, one: publisher.confirm([one]),
}


class TakesAll:
    """A producer whose broker confirms each record at once."""

    def produce(self, *args: Any, on_delivery: Callable[[None, None], None], **more: Any) -> None:
        """Confirm it."""
        on_delivery(None, None)


class Points:
    """A publisher with the points around it, and which of them were passed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
        plan = folder / "plan.json"
        plan.write_text(Plan(fault=fault, nth=1, fuses=folder).model_dump_json())
        injector = Injector(plan)
        self.passed: list[str] = []
        monkeypatch.setattr(injector, "passed", self.passed.append)
        for owner, name in ((ConsumerLoop, "_make"), (KafkaPublisher, "_produce")):
            monkeypatch.setattr(owner, name, getattr(owner, name))  # Put back afterwards.
        _around_kafka(injector)
        self.publisher = KafkaPublisher(KafkaSettings(), Metrics())
        monkeypatch.setattr(self.publisher, "_producer", TakesAll())


MakePoints = Callable[[Fault], Points]


@pytest.fixture
def points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePoints:
    return lambda fault: Points(tmp_path, monkeypatch, fault)


@pytest.mark.parametrize("way", WAYS)
def test_a_dead_letter_passes_its_point_once_it_is_out(points: MakePoints, way: str) -> None:
    laid = points(NONE)
    WAYS[way](laid.publisher, OTHER)
    assert laid.passed == []
    WAYS[way](laid.publisher, DEAD_LETTER)
    assert laid.passed == ["after the dead letter"]


@pytest.mark.parametrize("way", WAYS)
def test_a_dead_letter_can_be_refused(points: MakePoints, way: str) -> None:
    laid = points(Fault(name="refused", point="the dead letter", action="refuse"))
    with pytest.raises(KafkaUnavailable):
        WAYS[way](laid.publisher, DEAD_LETTER)
    WAYS[way](laid.publisher, DEAD_LETTER)
