"""A backlog of records in the topics, as upstream leaves it, and a group's progress through it."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from confluent_kafka import Consumer, Producer, TopicPartition

from config.settings import Settings
from schemas.envelope import event_type, format_time
from schemas.record import Header
from schemas.topics import ANSWERS_UPDATED, TRAIN_REQUESTED

SOURCE = "upstream"
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_LIMIT_S = 60.0


def elder(number: int, elders: int) -> str:
    """Return the elder of a record; the elders alternate."""
    return f"E{number % elders:04}"


def send(settings: Settings, topic: str, count: int, elders: int) -> None:
    """Send `count` valid events of `elders` elders; each elder's are a second apart."""
    producer = Producer(
        settings.kafka.producer() | {"linger.ms": 20, "queue.buffering.max.messages": 1_000_000}
    )
    failed: list[object] = []
    for number in range(count):
        name = elder(number, elders)
        producer.produce(
            settings.topic(topic),
            key=name.encode(),
            value=json.dumps({"elder_id": name, "elder_name": "李秀梅"}).encode(),
            headers=_headers(topic, number, number // elders),
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )
        producer.poll(0)
    assert producer.flush(_LIMIT_S) == 0, "the broker was too slow"
    assert not failed, failed[0]


def send_training(settings: Settings, count: int, elders: int) -> None:
    """Send `count` `train-requested` events."""
    send(settings, TRAIN_REQUESTED.name, count, elders)


def send_answers(settings: Settings, count: int, elders: int) -> None:
    """Send `count` `answers-updated` events."""
    send(settings, ANSWERS_UPDATED.name, count, elders)


def _headers(topic: str, number: int, second: int) -> list[Header]:
    return [
        ("ce_id", f"{topic}-{number}".encode()),
        ("ce_source", SOURCE.encode()),
        ("ce_specversion", b"1.0"),
        ("ce_type", event_type(topic).encode()),
        ("ce_time", format_time(_BEGIN + timedelta(seconds=second)).encode()),
        ("content-type", b"application/json"),
    ]


class Offsets:
    """Reads a role's committed offsets, as any client may."""

    def __init__(self, settings: Settings, role: str, topic: str) -> None:
        self._client = Consumer(settings.kafka.client() | {"group.id": settings.kafka.group(role)})
        self._topic = settings.topic(topic)

    def committed(self) -> int:
        """Return how many records the group has committed, in a topic that it reads from the start.

        The lag is not used: the embedded broker reports it wrongly for the last batch.
        """
        found = self._client.list_topics(self._topic, timeout=_LIMIT_S).topics[self._topic]
        partitions = [TopicPartition(self._topic, p) for p in found.partitions]
        committed = self._client.committed(partitions, timeout=_LIMIT_S)
        return sum(max(p.offset, 0) for p in committed)

    def close(self) -> None:
        """Close the client."""
        self._client.close()


def every(seconds: float, limit_s: float, what: str) -> Iterator[None]:
    """Yield at intervals until the caller breaks; raise AssertionError after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        yield
        time.sleep(seconds)
    raise AssertionError(f"not so within {limit_s:.0f} s: {what}")
