"""Three brokers, two members in each group: a broker dies, and nothing is lost or doubled.

The service may be slow after a fault, above all on a busy disk. The tests wait as long as further
requests end, and then compare what each request came to.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from config.settings import Settings
from schemas.record import Header, Record
from tests.integration.service import Service
from tests.integration.wire import Wire
from tests.servers.apache_kafka import ApacheKafka, Broker
from tests.waiting import wait_for, wait_for_value

if TYPE_CHECKING:
    from tests.integration.conftest import MakeSettings

CALL_LIMIT_S = 60.0
ANSWER_LIMIT_S = 3.0
# Above the time in which all requests end on a disk that takes seconds for a write.
TEST_LIMIT_S = 900.0
REQUESTS = 60
PARTITIONS = 3
ENDED = ("succeeded", "failed", "cancelled")

pytestmark = pytest.mark.timeout(TEST_LIMIT_S + 120)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """Three nodes; a write counts once two copies of the partition have it."""
    with ApacheKafka(tmp_path_factory.mktemp("cluster"), nodes=3) as three:
        yield three


@pytest.fixture(scope="module")
def settings(
    cluster: ApacheKafka, make_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Settings of this module's topics on the cluster; a delivery is retried for a minute."""
    made = make_settings(tmp_path_factory.mktemp("service"))
    there = {"bootstrap_servers": cluster.bootstrap_servers, "delivery_timeout_ms": 60_000}
    return made.model_copy(update={"kafka": made.kafka.model_copy(update=there)})


@pytest.fixture(scope="module")
def service(settings: Settings) -> Iterator[Service]:
    """Two members of each group, so that a partition has another member to go to."""
    wire = Wire(settings.kafka.bootstrap_servers)
    with Service(settings, wire) as first, Service(settings, None) as second:
        for member in (first, second):
            member.wait_until_assigned()
        yield first
    wire.close()


def admin_of(service: Service) -> AdminClient:
    """Return an admin client of the service's cluster."""
    return AdminClient(service.settings.kafka.client())


def coordinator(service: Service) -> int:
    """Return the node that coordinates the training group."""
    group = service.settings.kafka.group("training")
    found: list[int] = []

    def is_known() -> bool:
        # A new client each time: a client keeps asking the coordinator that it found first.
        admin = admin_of(service)
        # The coordinator may still be moving after the test before.
        with suppress(KafkaException, TimeoutError):
            described = admin.describe_consumer_groups([group])[group].result(ANSWER_LIMIT_S)
            found.append(int(described.coordinator.id))
        return bool(found)

    wait_for(is_known, f"the group {group} has a coordinator")
    return found[0]


def leader(service: Service) -> int:
    """Return the node that leads the first partition of the train requests."""
    topic = service.topic("train-requested")
    found = admin_of(service).list_topics(topic, timeout=CALL_LIMIT_S)
    return int(found.topics[topic].partitions[0].leader)


def controller(service: Service) -> int:
    """Return the node that controls the cluster."""
    admin = admin_of(service)
    return int(admin.describe_cluster().result(CALL_LIMIT_S).controller.id)


def send_requests(service: Service, run: str, numbers: range) -> None:
    """Ask for a training and a chat under each number; both end at once: the elders are unknown."""
    for number in numbers:
        elder = f"{run}-{number}"
        body = {"elder_id": elder, "elder_name": "x", "message": "Hello?"}
        for topic in ("train-requested", "chat-requests"):
            service.wire.send(
                service.topic(topic),
                json.dumps(body).encode(),
                *event_headers(topic, elder),
                key=elder.encode(),
                partition=number % PARTITIONS,
            )


def event_headers(topic: str, event_id: str) -> list[Header]:
    """Return CloudEvents headers with this id, which is also the correlation id."""
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


def each_ends_once(service: Service, run: str) -> None:
    """Wait until each request of the run has an end and a reply; fail if one has two."""
    wanted = Counter(f"{run}-{number}" for number in range(REQUESTS))

    def dealt_with() -> tuple[int, int]:
        service.wire.take_all()
        return len(ends(service, run)), len(replies(service, run))

    wait_for_value(
        (REQUESTS, REQUESTS), dealt_with, "requests with (an end, a reply):", limit_s=TEST_LIMIT_S
    )
    # A second end or reply would follow at once.
    service.wire.take_all()
    assert ends(service, run) == wanted
    assert replies(service, run) == wanted


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
    find: Callable[[Service], int],
    hard: bool,
) -> None:
    run = f"R{uuid4().hex[:8]}"
    bounce(cluster.brokers[find(service) - 1], service, run, hard=hard)
    each_ends_once(service, run)


def test_member_that_leaves_and_comes_back_loses_and_doubles_nothing(
    service: Service, settings: Settings
) -> None:
    """Members come and go while chats and requests are under way: three rebalances and more."""
    run = f"R{uuid4().hex[:8]}"
    for first in range(0, REQUESTS, 20):
        send_requests(service, run, range(first, first + 10))
        with Service(settings, None):
            send_requests(service, run, range(first + 10, first + 20))
    each_ends_once(service, run)


def test_committed_offsets_reach_the_end_and_no_further(service: Service) -> None:
    topic, group = service.topic("train-requested"), service.settings.kafka.group("training")
    asking = Consumer(service.settings.kafka.client() | {"group.id": group})

    def ends_of_partitions() -> dict[int, int]:
        partitions = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        return {p.partition: asking.get_watermark_offsets(p, CALL_LIMIT_S)[1] for p in partitions}

    def committed() -> dict[int, int]:
        # Not the AdminClient's list_consumer_group_offsets: while the coordinator moves,
        # librdkafka 2.16.0 follows a null pointer there (seen: rd_kafka_handle_OffsetFetch).
        found = asking.committed(
            [TopicPartition(topic, p) for p in range(PARTITIONS)], timeout=CALL_LIMIT_S
        )
        return {p.partition: p.offset for p in found}

    def uncommitted() -> dict[int, tuple[int, int]]:
        at, end = committed(), ends_of_partitions()
        return {p: (at[p], end[p]) for p in end if at[p] != end[p]}

    wait_for_value({}, uncommitted, "partitions by (committed offset, end) that differ:")
    asking.close()
