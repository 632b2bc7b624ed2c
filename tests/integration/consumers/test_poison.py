"""Bad records by the thousand through every role over real servers; all are dealt with, once.

`make poison` sends 100,000 to each inbound topic; docs/reliability.md has its figures.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from schemas.envelope import open_envelope
from schemas.errors import RejectError
from schemas.events import TrainRequested, read_event
from schemas.record import Record
from schemas.rpc import STREAM_FINAL
from tests.faults.poison import CASE, PARTITIONS, poison
from tests.faults.values import KNOWN_ELDER
from tests.integration.service import INBOUND, Service

if TYPE_CHECKING:
    from tests.integration.conftest import MakeSettings, Wire

RECORDS = int(os.environ.get("MODELSERVER_POISON_RECORDS", "500"))
SEED = 20260302
STALL_S = 30.0
ROLES = {
    "answers-updated": "answers",
    "train-requested": "training",
    "chat-requests": "chat",
    "model-commands": "models",
}
REPLIES = {"chat-requests": "chat-replies", "model-commands": "model-replies"}
OPEN_TOPIC = "family.replies"


@pytest.fixture(scope="module")
def service(
    make_settings: MakeSettings,
    make_wire: Callable[[], Wire],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """One service, whose allow-list names a topic of a family app that exists."""
    settings = make_settings(tmp_path_factory.mktemp("poison"))
    prefix = settings.kafka.group_prefix
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    made = admin.create_topics([NewTopic(f"{prefix}.{OPEN_TOPIC}", PARTITIONS)])
    made[f"{prefix}.{OPEN_TOPIC}"].result(STALL_S)
    wire = make_wire()
    with Service(settings, wire) as running:
        running.answers(KNOWN_ELDER, ("Where were you born?", "I was born in Stromness."))
        yield running


@pytest.fixture(scope="module")
def family(service: Service, make_wire: Callable[[], Wire]) -> Wire:
    """A family's app, which reads the topic that it asked replies to be sent to."""
    wire = make_wire()
    wire.read([f"{service.settings.kafka.group_prefix}.{OPEN_TOPIC}"])
    return wire


@pytest.mark.timeout(120 + RECORDS // 10)
@pytest.mark.parametrize("topic", INBOUND)
def test_counts_of_accepted_and_set_aside_add_up(
    service: Service, family: Wire, topic: str
) -> None:
    sent = send(service, topic)
    wait_for_all(service, topic)
    ends = count_ends(service, family, topic)
    if topic == "train-requested":
        jobs = service.app.store["jobs"].count_documents({})
        assert 0 < jobs == len(requests_accepted(service)) <= ends["accepted"]
    assert ends.total() == RECORDS == consumed(service, topic), ends
    assert ends["dead letter"] > RECORDS / 20, "most are bad"
    assert len(ends) > 1, "some are good"
    assert committed(service, topic, sent) == sent


def send(service: Service, topic: str) -> Counter[int]:
    """Send them all; return how many went to each partition."""
    name, prefix = service.topic(topic), service.settings.kafka.group_prefix
    broker = {"bootstrap.servers": service.settings.kafka.bootstrap_servers}
    producer = Producer(broker | {"message.max.bytes": 4 * 1024 * 1024, "linger.ms": 5})
    partitions = len(producer.list_topics(name, timeout=STALL_S).topics[name].partitions)
    sent: Counter[int] = Counter()
    for one in poison(topic, RECORDS, SEED, prefix=f"{prefix}."):
        partition = one.partition % partitions
        while True:
            try:
                producer.produce(name, one.value, one.key, partition, headers=list(one.headers))
                break
            except BufferError:
                producer.poll(0.1)
        sent[partition] += 1
    assert producer.flush(STALL_S * 2) == 0
    return sent


def wait_for_all(service: Service, topic: str) -> None:
    """Wait until all are dealt with; fails where nothing happens for a while."""
    seen, at, pause = 0.0, time.monotonic(), threading.Event()
    while (now := consumed(service, topic)) < RECORDS:
        if now > seen:
            seen, at = now, time.monotonic()
        assert time.monotonic() - at < STALL_S, f"stalled after {now:.0f} records"
        pause.wait(0.1)


def count_ends(service: Service, family: Wire, topic: str) -> Counter[str]:
    """How many records ended in which way, once all have; a second end of one counts too."""
    deadline = time.monotonic() + STALL_S
    while ends_now(service, family, topic).total() < RECORDS and time.monotonic() < deadline:
        pass  # Each look waits for what comes.
    return ends_now(service, family, topic)


def ends_now(service: Service, family: Wire, topic: str) -> Counter[str]:
    """Count the ends that have come until now."""
    seen = service.wire.all(lambda r: True) + family.all(lambda r: True)
    ends = Counter(end for r in seen if (end := end_of(service, topic, r)))
    if topic == "train-requested":
        ends["accepted"] = int(consumed(service, topic, "done"))
    return ends


def requests_accepted(service: Service) -> set[tuple[str, ...]]:
    """The train requests that were not set aside, by what names a job: each must have one."""
    topic = "train-requested"
    letters = service.wire.all(lambda r: r.topic == service.topic(f"{topic}-dlt"))
    refused = {letter.header(CASE) for letter in letters}
    found: set[tuple[str, ...]] = set()
    for one in poison(topic, RECORDS, SEED, prefix=f"{service.settings.kafka.group_prefix}."):
        record = Record(
            topic=topic,
            partition=one.partition,
            offset=one.case,  # Any will do: a record without an id is named by its place.
            key=one.key,
            value=one.value,
            headers=one.headers,
        )
        if str(one.case).encode() in refused:
            continue
        with suppress(RejectError):  # Unreadable headers: its letter has none, nor a number.
            envelope = open_envelope(record, topic, len(one.value or b""))
            event = read_event(envelope, TrainRequested)
            found.add((envelope.source, envelope.id, event.elder_id))
    return found


def consumed(service: Service, topic: str, outcome: str | None = None) -> float:
    """How many records of a topic were dealt with, by the service's own count."""
    samples = [s for m in service.app.metrics.registry.collect() for s in m.samples]
    return sum(
        s.value
        for s in samples
        if s.name == "modelserver_messages_consumed_total"
        and s.labels["topic"] == topic
        and outcome in (None, s.labels["outcome"])
    )


def end_of(service: Service, topic: str, found: Record) -> str | None:
    """Say how a record of this topic ended, if this is its end: dead letter, event or reply."""
    if found.topic == service.topic(f"{topic}-dlt"):
        return "dead letter"
    if topic == "answers-updated" and found.topic == service.topic("dataset-ready"):
        return "event"
    if topic not in REPLIES or found.header(STREAM_FINAL) == b"false":
        return None
    # Some ask for the reply on the other command's topic, and some on a family's.
    if found.header("ce_type") != f"heirloom.{REPLIES[topic]}.v1".encode():
        return None
    return None if found.topic.endswith("-dlt") else "reply"


def committed(service: Service, topic: str, sent: Counter[int]) -> Counter[int]:
    """Wait for the offsets committed to be those after the last records."""
    kafka, name = service.settings.kafka, service.topic(topic)
    group = {"group.id": kafka.group(ROLES[topic])}
    consumer = Consumer(kafka.client() | group)
    wanted = [TopicPartition(name, p) for p in sent]
    deadline, pause = time.monotonic() + STALL_S, threading.Event()
    try:
        while True:
            found = consumer.committed(wanted, timeout=STALL_S)
            offsets = Counter({tp.partition: max(tp.offset, 0) for tp in found})
            if offsets == sent or time.monotonic() > deadline:
                return offsets
            pause.wait(0.2)
    finally:
        consumer.close()
