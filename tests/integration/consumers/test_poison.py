"""Bad records by the thousand through every role, over real servers: each ends exactly once.

`make poison` sends 100,000 to each inbound topic; docs/reliability.md has its figures.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
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
from tests.waiting import wait_for, wait_for_value

if TYPE_CHECKING:
    from tests.integration.conftest import MakeSettings
    from tests.integration.wire import Wire

RECORDS = int(os.environ.get("MODELSERVER_POISON_RECORDS", "500"))
SEED = 20260302
CALL_LIMIT_S = 60.0
TEST_LIMIT_S = 600.0 + RECORDS // 10
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
    """One service whose allow-list names an existing topic of a family's app."""
    settings = make_settings(tmp_path_factory.mktemp("poison"))
    prefix = settings.kafka.group_prefix
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    made = admin.create_topics([NewTopic(f"{prefix}.{OPEN_TOPIC}", PARTITIONS)])
    made[f"{prefix}.{OPEN_TOPIC}"].result(CALL_LIMIT_S)
    wire = make_wire()
    with Service(settings, wire) as running:
        running.answers(KNOWN_ELDER, ("Where were you born?", "I was born in Stromness."))
        yield running


@pytest.fixture(scope="module")
def family(service: Service, make_wire: Callable[[], Wire]) -> Wire:
    """A family's app, which reads the topic that it wants replies on."""
    wire = make_wire()
    wire.read([f"{service.settings.kafka.group_prefix}.{OPEN_TOPIC}"])
    return wire


@pytest.mark.timeout(60 + TEST_LIMIT_S)
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
    wait_for_commits(service, topic, sent)


def send(service: Service, topic: str) -> Counter[int]:
    """Send all records to a topic; return how many went to each partition."""
    name, prefix = service.topic(topic), service.settings.kafka.group_prefix
    broker = {"bootstrap.servers": service.settings.kafka.bootstrap_servers}
    producer = Producer(broker | {"message.max.bytes": 4 * 1024 * 1024, "linger.ms": 5})
    partitions = len(producer.list_topics(name, timeout=CALL_LIMIT_S).topics[name].partitions)
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
    assert producer.flush(CALL_LIMIT_S) == 0
    return sent


def wait_for_all(service: Service, topic: str) -> None:
    """Wait until every record of a topic was consumed."""
    wait_for_value(
        RECORDS, lambda: consumed(service, topic), "consumed records:", limit_s=TEST_LIMIT_S
    )


def count_ends(service: Service, family: Wire, topic: str) -> Counter[str]:
    """Wait until there is an end for each record; return how many ended in which way.

    A record with two ends counts twice.
    """
    wait_for(
        lambda: ends_now(service, family, topic).total() >= RECORDS,
        f"{RECORDS} ends",
        progress=lambda: len(service.wire.seen) + len(family.seen),
        limit_s=TEST_LIMIT_S,
    )
    return ends_now(service, family, topic)


def ends_now(service: Service, family: Wire, topic: str) -> Counter[str]:
    """Count the ends that have come until now, by kind."""
    seen = service.wire.all(lambda r: True) + family.all(lambda r: True)
    ends = Counter(end for r in seen if (end := end_of(service, topic, r)))
    if topic == "train-requested":
        ends["accepted"] = int(consumed(service, topic, "done"))
    return ends


def requests_accepted(service: Service) -> set[tuple[str, ...]]:
    """Return the identities of the train requests without a dead letter: each must have a job."""
    topic = "train-requested"
    dead_letters = service.wire.all(lambda r: r.topic == service.topic(f"{topic}-dlt"))
    refused = {one.header(CASE) for one in dead_letters}
    found: set[tuple[str, ...]] = set()
    for one in poison(topic, RECORDS, SEED, prefix=f"{service.settings.kafka.group_prefix}."):
        record = Record(
            topic=topic,
            partition=one.partition,
            offset=one.case,  # Any will do: it only names a record without an event id.
            key=one.key,
            value=one.value,
            headers=one.headers,
        )
        if str(one.case).encode() in refused:
            continue
        with suppress(RejectError):  # Its headers are unreadable, so its dead letter has no case.
            envelope = open_envelope(record, topic, len(one.value or b""))
            event = read_event(envelope, TrainRequested)
            found.add((envelope.source, envelope.id, event.elder_id))
    return found


def consumed(service: Service, topic: str, outcome: str | None = None) -> float:
    """Return how many records of a topic the service consumed, by its own metric."""
    samples = [s for m in service.app.metrics.registry.collect() for s in m.samples]
    return sum(
        s.value
        for s in samples
        if s.name == "modelserver_messages_consumed_total"
        and s.labels["topic"] == topic
        and outcome in (None, s.labels["outcome"])
    )


def end_of(service: Service, topic: str, found: Record) -> str | None:
    """Return how a record of this topic ended, or None if `found` is not an end."""
    if found.topic == service.topic(f"{topic}-dlt"):
        return "dead letter"
    if topic == "answers-updated" and found.topic == service.topic("dataset-ready"):
        return "event"
    if topic not in REPLIES or found.header(STREAM_FINAL) == b"false":
        return None
    # A record may ask for its reply on another reply topic, so the event type decides.
    if found.header("ce_type") != f"heirloom.{REPLIES[topic]}.v1".encode():
        return None
    return None if found.topic.endswith("-dlt") else "reply"


def wait_for_commits(service: Service, topic: str, sent: Counter[int]) -> None:
    """Wait until the committed offset of each partition is that after its last record."""
    kafka, name = service.settings.kafka, service.topic(topic)
    partitions = [TopicPartition(name, p) for p in sent]

    def committed() -> Counter[int]:
        found = consumer.committed(partitions, timeout=CALL_LIMIT_S)
        return Counter({tp.partition: max(tp.offset, 0) for tp in found})

    with closing(Consumer(kafka.client() | {"group.id": kafka.group(ROLES[topic])})) as consumer:
        wait_for_value(sent, committed, "committed offsets")
