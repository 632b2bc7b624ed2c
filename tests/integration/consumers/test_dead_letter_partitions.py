"""Dead-letter topics get as many partitions as their sources; fewer block no record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from config.settings import Settings
from consumers.operations.admin import KafkaAdmin
from consumers.operations.doctor import examine
from consumers.operations.topics import apply_topics
from tests.integration.service import INBOUND, Service
from tests.waiting import wait_for_value

if TYPE_CHECKING:
    from tests.integration.conftest import MakeSettings
    from tests.integration.wire import Wire

CALL_LIMIT_S = 60.0


@pytest.fixture
def settings(make_settings: MakeSettings, tmp_path: Path) -> Settings:
    return make_settings(tmp_path)


def make(settings: Settings, partitions: dict[str, int]) -> None:
    """Create topics by hand, as an operator does; `partitions` gives their numbers by topic."""
    admin = AdminClient(settings.kafka.client())
    new = [NewTopic(name, number) for name, number in partitions.items()]
    for future in admin.create_topics(new).values():
        future.result(CALL_LIMIT_S)
    wait_for_topics(settings, *partitions)


def wait_for_topics(settings: Settings, *topics: str) -> None:
    """Wait until the broker lists all these topics, some time after it created them."""

    def missing() -> set[str]:
        return set(topics) - KafkaAdmin(settings.kafka).topics(CALL_LIMIT_S).keys()

    wait_for_value(set(), missing, "missing topics:")


def partitions(settings: Settings, *topics: str) -> list[int]:
    """Return how many partitions each topic has."""
    wait_for_topics(settings, *topics)
    there = KafkaAdmin(settings.kafka).topics(CALL_LIMIT_S)
    return [len(there[topic].partitions) for topic in topics]


def topics_finding(settings: Settings) -> str:
    (finding,) = (f for f in examine(settings) if f.name == "topics")
    assert finding.ok
    return finding.found


def test_dead_letter_topic_is_made_with_as_many_partitions_as_its_source_has(
    settings: Settings,
) -> None:
    source = settings.topic("train-requested")
    make(settings, {source: 20})
    outcomes = {applied.topic: applied.outcome for applied in apply_topics(settings, 3)}
    assert partitions(settings, source, f"{source}-dlt") == [20, 20]
    assert outcomes[f"{source}-dlt"] == "created"
    other = settings.topic("chat-requests")
    assert partitions(settings, other, f"{other}-dlt") == [3, 3]
    wait_for_topics(settings, *outcomes)
    assert {a.outcome for a in apply_topics(settings, 3)} == {"exists"}
    assert topics_finding(settings) == "all there"


def test_dead_letter_topic_with_fewer_partitions_than_its_source_is_told_of(
    settings: Settings,
) -> None:
    source = settings.topic("train-requested")
    make(settings, {source: 4, f"{source}-dlt": 3})
    outcomes = {applied.topic: applied.outcome for applied in apply_topics(settings, 3)}
    assert outcomes[f"{source}-dlt"] == "exists with 3 partitions, 4 wanted"
    wait_for_topics(settings, *outcomes)
    assert f"{source}-dlt has 3 partitions and {source} 4" in topics_finding(settings)


def test_records_of_partitions_without_a_counterpart_become_dead_letters_and_block_nothing(
    settings: Settings, make_wire: Callable[[], Wire]
) -> None:
    make(settings, {f"{settings.topic(topic)}-dlt": 1 for topic in INBOUND})
    with Service(settings, make_wire()) as service:
        service.answers("AFTER1", ("Where were you born?", "In Stromness, by the harbour."))
        for topic in INBOUND:
            name, case = service.topic(topic), ("case", topic.encode())
            service.wire.send(name, b"{", case, partition=5)
        data = json.dumps({"elder_id": "AFTER1"}).encode()
        service.wire.send(service.topic("answers-updated"), data, partition=5)
        found = [service.dead_letter(topic, topic) for topic in INBOUND]
        assert [dead_letter.partition for dead_letter in found] == [0] * len(INBOUND)
        assert {one.header("kafka_dlt-original-partition") for one in found} == {
            b"\x00\x00\x00\x05"
        }
        service.event("dataset-ready", lambda d: d["elder_id"] == "AFTER1")
