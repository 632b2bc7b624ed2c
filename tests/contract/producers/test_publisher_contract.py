"""The publisher's port: one suite on the fake and on Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import wait
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from config.kafka import KafkaSettings
from config.metrics import Metrics
from consumers.kafka.records import to_record
from embedded.process import free_port
from producers.publisher import KafkaPublisher, Publication
from schemas.errors import KafkaUnavailable, MessageTooLarge, NoSuchTopic
from schemas.record import Header
from tests.fakes.publisher import RecordingPublisher

LIMIT_S = 30.0
HEADERS: tuple[Header, ...] = (("a", b"\xff\x00"), ("empty", b""), ("none", None), ("a", b"2"))


class PublisherUnderTest:
    """A publisher, and a way to see what it published to a topic of three partitions."""

    def __init__(
        self,
        publisher: RecordingPublisher | KafkaPublisher,
        topic: str,
        seen: Callable[[int], list[Publication]],
    ) -> None:
        self.publisher = publisher
        self.topic = topic
        self.seen = seen

    def publication(
        self, value: bytes | None = b"{}", key: bytes | None = b"k", partition: int | None = None
    ) -> Publication:
        return Publication(
            topic=self.topic, key=key, value=value, headers=HEADERS, partition=partition
        )


@pytest.fixture(params=["fake", "kafka"])
def under_test(request: pytest.FixtureRequest) -> Iterator[PublisherUnderTest]:
    if request.param == "fake":
        fake = RecordingPublisher(partitions=3)
        yield PublisherUnderTest(fake, "t", lambda count: fake.published)
        return
    address: str = request.getfixturevalue("kafka_bootstrap_servers")
    topic = f"t-{uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic(topic, 3)])[topic].result(LIMIT_S)
    settings = KafkaSettings(bootstrap_servers=address, delivery_timeout_ms=5000)
    with KafkaPublisher(settings, Metrics()) as publisher:
        yield PublisherUnderTest(publisher, topic, lambda count: consumed(address, topic, count))


def consumed(address: str, topic: str, count: int) -> list[Publication]:
    """Read `count` records of a topic, and look whether there are more.

    The embedded broker's end offset counts only the first record of the last batch.
    """
    consumer = Consumer(
        {"bootstrap.servers": address, "group.id": uuid4().hex, "fetch.wait.max.ms": 20}
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(3)])
    found: list[Publication] = []
    while (message := consumer.poll(LIMIT_S if len(found) < count else 0.3)) is not None:
        assert message.error() is None
        record = to_record(message)
        found.append(
            Publication(
                topic=topic,
                key=record.key,
                value=record.value,
                headers=record.headers,
                partition=record.partition,
            )
        )
    consumer.close()
    return found


def test_record_arrives_as_it_was_handed_over(under_test: PublisherUnderTest) -> None:
    sent = under_test.publication(b"\xff\x00", b"\x00key", partition=2)
    under_test.publisher.publish(sent).result(LIMIT_S)
    assert under_test.seen(1) == [sent]


def test_record_without_key_or_value_arrives_without(under_test: PublisherUnderTest) -> None:
    under_test.publisher.confirm([under_test.publication(None, None, partition=0)])
    (found,) = under_test.seen(1)
    assert (found.key, found.value) == (None, None)


def test_confirm_returns_when_all_are_there_in_order(under_test: PublisherUnderTest) -> None:
    values = [str(i).encode() for i in range(100)]
    under_test.publisher.confirm(under_test.publication(v) for v in values)
    found = under_test.seen(100)
    assert [p.value for p in found] == values
    assert len({p.partition for p in found}) == 1, "one key, one partition"


def test_record_whose_partition_does_not_exist_goes_to_any_other_where_it_may(
    under_test: PublisherUnderTest,
) -> None:
    """Known at once or only when the broker tells of its topic; each gets its confirmation."""
    sent = [
        under_test.publication(str(number).encode(), partition=partition).model_copy(
            update={"may_go_elsewhere": True}
        )
        for number, partition in enumerate((2, 3, 99, 3))
    ]
    under_test.publisher.confirm(sent[:2])
    under_test.publisher.confirm(sent[2:])
    found = {p.value: p for p in under_test.seen(4)}
    assert set(found) == {b"0", b"1", b"2", b"3"}
    assert found[b"0"].partition == 2
    assert {found[b"1"].partition, found[b"2"].partition} <= {None, 0, 1, 2}
    assert {(p.key, p.headers) for p in found.values()} == {(b"k", HEADERS)}


def test_record_whose_partition_does_not_exist_is_refused_where_it_may_go_nowhere_else(
    under_test: PublisherUnderTest,
) -> None:
    with pytest.raises(NoSuchTopic):
        under_test.publisher.confirm([under_test.publication(partition=3)])
    assert under_test.seen(0) == []


def test_confirm_of_nothing_is_nothing(under_test: PublisherUnderTest) -> None:
    under_test.publisher.confirm([])
    assert under_test.seen(0) == []


def test_each_record_has_a_confirmation_of_its_own(under_test: PublisherUnderTest) -> None:
    futures = [under_test.publisher.publish(under_test.publication()) for _ in range(3)]
    done, missing = wait(futures, timeout=LIMIT_S)
    assert (len(done), missing) == (3, set())


def test_failure_is_in_the_future_and_raised_by_confirm() -> None:
    fake = RecordingPublisher(KafkaUnavailable(), KafkaUnavailable())
    publication = Publication(topic="t", key=None, value=None, headers=())
    assert isinstance(fake.publish(publication).exception(), KafkaUnavailable)
    with pytest.raises(KafkaUnavailable):
        fake.confirm([publication])
    assert fake.published == []


def test_broker_that_is_away_is_not_available() -> None:
    settings = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}", delivery_timeout_ms=1000)
    metrics = Metrics()
    publication = Publication(topic="t", key=b"k", value=b"{}", headers=())
    with KafkaPublisher(settings, metrics) as publisher, pytest.raises(KafkaUnavailable):
        publisher.confirm([publication])
    failed = metrics.registry.get_sample_value(
        "modelserver_delivery_failures_total", {"topic": "t"}
    )
    assert failed == 1


def test_who_may_not_go_on_keeps_nothing_to_send_later() -> None:
    away = f"127.0.0.1:{free_port()}"
    settings = KafkaSettings(bootstrap_servers=away, delivery_timeout_ms=60_000)
    metrics = Metrics()
    asked: list[bool] = []

    def may_go_on() -> bool:
        asked.append(len(asked) < 2)
        return asked[-1]

    publications = [Publication(topic="t", key=b"k", value=b"{}", headers=())] * 3
    with KafkaPublisher(settings, metrics) as publisher, pytest.raises(KafkaUnavailable):
        publisher.confirm(publications, may_go_on)
    assert asked == [True, True, False]
    failed = metrics.registry.get_sample_value(
        "modelserver_delivery_failures_total", {"topic": "t"}
    )
    assert failed == 3, "dropped, each with its confirmation"


def test_whoever_gives_up_waiting_spoils_no_confirmation() -> None:
    """As a chat whose deadline passes while its reply is under way."""
    settings = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}", delivery_timeout_ms=1000)
    publication = Publication(topic="t", key=b"k", value=b"{}", headers=())
    with KafkaPublisher(settings, Metrics()) as publisher:
        given_up = publisher.publish(publication)
        assert not given_up.cancel()
        wait([given_up], timeout=LIMIT_S)
        with pytest.raises(KafkaUnavailable):
            publisher.confirm([publication])
        assert given_up.exception(0) is not None


def test_confirm_raises_the_failure_of_the_first_record_that_has_one(
    kafka_bootstrap_servers: str,
) -> None:
    """Not of the one that failed first: too large is known at once, the partition is asked for."""
    topic = f"t-{uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap_servers})
    admin.create_topics([NewTopic(topic, 3)])[topic].result(LIMIT_S)
    settings = KafkaSettings(bootstrap_servers=kafka_bootstrap_servers, delivery_timeout_ms=10_000)
    good = Publication(topic=topic, key=None, value=b"{}", headers=(), partition=0)
    wrong = good.model_copy(update={"partition": 99})
    huge = good.model_copy(update={"value": b"x" * (5 * 1024 * 1024)})
    with KafkaPublisher(settings, Metrics()) as publisher:
        with pytest.raises(NoSuchTopic):
            publisher.confirm([good, wrong, huge, good])
        with pytest.raises(MessageTooLarge):
            publisher.confirm([good, huge, wrong])
    assert consumed(kafka_bootstrap_servers, topic, 3) == [good] * 3


def test_record_beyond_the_producers_limit_is_too_large_and_not_tried_again(
    kafka_bootstrap_servers: str,
) -> None:
    settings = KafkaSettings(bootstrap_servers=kafka_bootstrap_servers, delivery_timeout_ms=5000)
    huge = Publication(topic="t", key=None, value=b"x" * (5 * 1024 * 1024), headers=())
    with KafkaPublisher(settings, Metrics()) as publisher, pytest.raises(MessageTooLarge):
        publisher.confirm([huge])
