"""Three brokers, two members of each group: a broker dies, and nothing is lost or doubled."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from config.settings import Settings
from schemas.record import Header, Record
from tests.integration.conftest import Wire
from tests.integration.service import Service
from tests.servers.apache_kafka import ApacheKafka, Broker

if TYPE_CHECKING:
    from tests.integration.conftest import MakeSettings, WaitUntil

LIMIT_S = 30.0
ANSWER_LIMIT_S = 3.0
REQUESTS = 60
ENDED = ("succeeded", "failed", "cancelled")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """Three nodes; of each partition two copies must be written."""
    with ApacheKafka(tmp_path_factory.mktemp("cluster"), nodes=3) as three:
        yield three


@pytest.fixture(scope="module")
def settings(
    cluster: ApacheKafka, make_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Settings of this module's topics on the cluster; deliveries are tried for long."""
    made = make_settings(tmp_path_factory.mktemp("service"))
    there = {"bootstrap_servers": cluster.bootstrap_servers, "delivery_timeout_ms": 60_000}
    return made.model_copy(update={"kafka": made.kafka.model_copy(update=there)})


@pytest.fixture(scope="module")
def service(settings: Settings, wait_until: WaitUntil) -> Iterator[Service]:
    """Two members of each group: the second one is there to be rebalanced with."""
    wire = Wire(settings.kafka.bootstrap_servers)
    with Service(settings, wire) as first, Service(settings, None) as second:
        for member in (first, second):
            wait_until(member.is_assigned, "both members have partitions")
        yield first
    wire.close()


def admin_of(service: Service) -> AdminClient:
    """The operator's view."""
    return AdminClient(service.settings.kafka.client())


def coordinator(service: Service) -> int:
    """The node that keeps the training group."""
    group = service.settings.kafka.group("training")
    deadline = time.monotonic() + LIMIT_S
    while True:
        # A client of its own each time: it keeps to the coordinator that it found first.
        admin = admin_of(service)
        try:
            described = admin.describe_consumer_groups([group])[group].result(ANSWER_LIMIT_S)
            return int(described.coordinator.id)
        except (KafkaException, TimeoutError):  # It is moving from the test before.
            if time.monotonic() > deadline:
                raise


def leader(service: Service) -> int:
    """The node that leads the first partition of the requests."""
    topic = service.topic("train-requested")
    found = admin_of(service).list_topics(topic, timeout=LIMIT_S)
    return int(found.topics[topic].partitions[0].leader)


def controller(service: Service) -> int:
    """The node that leads the cluster."""
    admin = admin_of(service)
    return int(admin.describe_cluster().result(LIMIT_S).controller.id)


def send_requests(service: Service, run: str, numbers: range) -> None:
    """Ask for a training and a chat under each number; nobody knows the elders."""
    for number in numbers:
        elder = f"{run}-{number}"
        body = {"elder_id": elder, "elder_name": "x", "message": "Hello?"}
        for topic in ("train-requested", "chat-requests"):
            service.wire.send(
                service.topic(topic),
                json.dumps(body).encode(),
                *event_headers(topic, elder),
                key=elder.encode(),
                partition=number % 3,
            )


def event_headers(topic: str, event_id: str) -> list[Header]:
    """CloudEvents headers under an id of the sender's."""
    return [
        ("ce_id", event_id.encode()),
        ("ce_source", b"upstream"),
        ("ce_specversion", b"1.0"),
        ("ce_type", f"heirloom.{topic}.v1".encode()),
        ("kafka_correlationId", event_id.encode()),
    ]


def ends(service: Service, run: str) -> Counter[str]:
    """Count the different terminal events of each elder of the run."""
    name = service.topic("train-progress")
    found = {
        (told["elder_id"], record.header("ce_id"))
        for record in service.wire.seen
        if record.topic == name and (told := json.loads(record.value or b"{}"))
        if told["status"] in ENDED and told["elder_id"].startswith(run)
    }
    return Counter(elder for elder, _ in found)


def replies(service: Service, run: str) -> Counter[str]:
    """Count the different replies to each chat of the run."""
    name = service.topic("chat-replies")

    def correlation(record: Record) -> str:
        return (record.header("kafka_correlationId") or b"").decode()

    found = {
        (correlation(record), record.header("ce_id"), record.value)
        for record in service.wire.seen
        if record.topic == name and correlation(record).startswith(run)
    }
    return Counter(request for request, _, _ in found)


def bounce(broker: Broker, service: Service, run: str, *, hard: bool) -> None:
    """Stop a broker among requests, send more while it is away, and start it again."""
    send_requests(service, run, range(REQUESTS // 3))
    broker.stop(hard=hard)
    send_requests(service, run, range(REQUESTS // 3, 2 * REQUESTS // 3))
    broker.start()
    send_requests(service, run, range(2 * REQUESTS // 3, REQUESTS))
    broker.wait_until_ready()


@pytest.mark.parametrize("hard", [False, True], ids=["clean", "hard"])
@pytest.mark.parametrize("find", [coordinator, leader, controller])
def test_each_request_ends_once_though_a_broker_goes(
    cluster: ApacheKafka,
    service: Service,
    wait_until: WaitUntil,
    find: Callable[[Service], int],
    hard: bool,
) -> None:
    run = f"R{uuid4().hex[:8]}"
    bounce(cluster.brokers[find(service) - 1], service, run, hard=hard)
    wanted = Counter(f"{run}-{number}" for number in range(REQUESTS))

    def all_dealt_with() -> bool:
        service.wire.take_all()
        return len(ends(service, run)) >= REQUESTS and len(replies(service, run)) >= REQUESTS

    wait_until(all_dealt_with, "all requests have an end")
    service.wire.take_all()
    assert ends(service, run) == wanted
    assert replies(service, run) == wanted


def test_member_that_leaves_and_comes_back_loses_and_doubles_nothing(
    service: Service, settings: Settings, wait_until: WaitUntil
) -> None:
    """Members come and go while chats and requests are under way: three rebalances and more."""
    run = f"R{uuid4().hex[:8]}"
    for part in range(3):
        send_requests(service, run, range(part * 20, part * 20 + 10))
        with Service(settings, None):
            send_requests(service, run, range(part * 20 + 10, part * 20 + 20))
    wanted = Counter(f"{run}-{number}" for number in range(60))

    def all_dealt_with() -> bool:
        service.wire.take_all()
        return len(ends(service, run)) >= 60 and len(replies(service, run)) >= 60

    wait_until(all_dealt_with, "all requests have an end")
    service.wire.take_all()
    assert ends(service, run) == wanted
    assert replies(service, run) == wanted


def test_committed_offsets_reach_the_end_and_no_further(
    service: Service, wait_until: WaitUntil
) -> None:
    topic, group = service.topic("train-requested"), service.settings.kafka.group("training")

    asking = Consumer(service.settings.kafka.client() | {"group.id": group})

    def ends_of_partitions() -> dict[int, int]:
        partitions = [TopicPartition(topic, p) for p in range(3)]
        return {p.partition: asking.get_watermark_offsets(p, LIMIT_S)[1] for p in partitions}

    def committed() -> dict[int, int]:
        # Not the AdminClient's list_consumer_group_offsets: while the coordinator moves,
        # librdkafka 2.16.0 follows a null pointer there (seen: rd_kafka_handle_OffsetFetch).
        found = asking.committed([TopicPartition(topic, p) for p in range(3)], timeout=LIMIT_S)
        return {p.partition: p.offset for p in found}

    wait_until(lambda: committed() == ends_of_partitions(), "all is committed")
    asking.close()
