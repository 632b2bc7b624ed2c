"""Real servers for these tests: one embedded stack, a database and topics of its own for each."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from config.kafka import FETCH_WAIT_MS, KafkaSettings
from config.settings import (
    LogSettings,
    MongoSettings,
    OllamaSettings,
    OpsSettings,
    Settings,
    WorkerSettings,
)
from consumers.kafka.records import to_record
from embedded.kafka import CHAT_FETCH_WAIT_MS, SESSION_TIMEOUT_MS
from embedded.stack import EmbeddedStack, StackAddresses
from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import Store, open_client
from schemas.record import Header, Record
from schemas.topics import CATALOGUE

LIMIT_S = 30.0


@pytest.fixture(scope="session")
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StackAddresses]:
    """Kafka, MongoDB and Ollama (without any model) for the whole session."""
    with EmbeddedStack(tmp_path_factory.mktemp("stack")) as addresses:
        if request.config.option.kafka == "apache":
            real = request.getfixturevalue("kafka_bootstrap_servers")
            addresses = addresses.model_copy(update={"kafka_bootstrap_servers": real})
        yield addresses


class WaitUntil(Protocol):
    """Waits for a condition, and fails with its name after the limit."""

    def __call__(
        self, is_so: Callable[[], object], what: str, limit_s: float = LIMIT_S
    ) -> None: ...


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    """Waits for a condition, and fails with its name after the limit."""

    def wait(is_so: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
        deadline = time.monotonic() + limit_s
        pause = threading.Event()
        while not is_so():
            assert time.monotonic() < deadline, f"not so within {limit_s:.0f} s: {what}"
            pause.wait(0.02)

    return wait


@pytest.fixture
def mongo(stack: StackAddresses) -> MongoSettings:
    """Settings of a database that no other test has."""
    return MongoSettings(uri=stack.mongodb_uri, database=f"test_{uuid4().hex[:12]}")


@pytest.fixture
def store(mongo: MongoSettings) -> Iterator[Store]:
    """An empty database with its indexes."""
    client = open_client(mongo)
    ensure_indexes(client[mongo.database], dedup_hours=1)
    yield client[mongo.database]
    client.drop_database(mongo.database)
    client.close()


MakeSettings = Callable[[Path], Settings]


@pytest.fixture(scope="session")
def make_settings(stack: StackAddresses, request: pytest.FixtureRequest) -> MakeSettings:
    """Makes settings whose topics, groups and database nobody else has."""

    kafka = request.config.option.kafka

    def make(folder: Path) -> Settings:
        name = f"t{uuid4().hex[:8]}"
        return Settings(
            kafka=KafkaSettings(
                bootstrap_servers=stack.kafka_bootstrap_servers,
                group_prefix=name,
                group_protocol=request.config.option.group_protocol,
                session_timeout_ms=SESSION_TIMEOUT_MS,
                chat_fetch_wait_ms=CHAT_FETCH_WAIT_MS if kafka == "embedded" else FETCH_WAIT_MS,
                delivery_timeout_ms=10_000,
            ),
            mongodb=MongoSettings(uri=stack.mongodb_uri, database=name),
            ollama=OllamaSettings(host=stack.ollama_host),
            worker=WorkerSettings(
                lease_s=5, heartbeat_s=0.2, poll_s=0.1, max_attempts=2, retry_base_s=0.1
            ),
            ops=OpsSettings(port=0),
            log=LogSettings(file=False),
            topics={topic.name: f"{name}.{topic.name}" for topic in CATALOGUE},
            data_dir=folder / "data",
            model_dir=folder / "models",
            current_model="smollm2-135m-instruct",
        )

    return make


class Wire:
    """A plain Kafka client: sends bytes, and keeps every record of the topics it reads."""

    def __init__(self, bootstrap_servers: str) -> None:
        client = {"bootstrap.servers": bootstrap_servers, "log_level": 2}
        self._producer = Producer(client | {"linger.ms": 0, "message.max.bytes": 4 * 1024 * 1024})
        self._consumer = Consumer(
            client
            | {
                "group.id": f"wire-{uuid4().hex}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
                "fetch.message.max.bytes": 4 * 1024 * 1024,
            }
        )
        self.seen: list[Record] = []

    def read(self, topics: list[str]) -> None:
        """Read all partitions of these topics from their beginning."""
        # A broker of a cluster may hear of new topics a little later than the one that made them.
        deadline = time.monotonic() + LIMIT_S
        while missing := set(topics) - set(self._consumer.list_topics(timeout=LIMIT_S).topics):
            assert time.monotonic() < deadline, f"not there within {LIMIT_S:.0f} s: {missing}"
        known = self._consumer.list_topics(timeout=LIMIT_S).topics
        self._consumer.assign(
            [TopicPartition(t, p, 0) for t in topics for p in known[t].partitions]
        )

    def send(
        self,
        topic: str,
        value: bytes | None,
        *headers: Header,
        key: bytes | None = None,
        partition: int = 0,
    ) -> None:
        """Send one record and wait for the broker."""
        self._producer.produce(
            topic, key=key, value=value, headers=list(headers), partition=partition
        )
        assert self._producer.flush(LIMIT_S) == 0

    def find(self, wanted: Callable[[Record], bool], what: str) -> Record:
        """Return the first record like that, past or to come."""
        deadline = time.monotonic() + LIMIT_S
        position = 0
        while True:
            for found in self.seen[position:]:
                if wanted(found):
                    return found
            position = len(self.seen)
            assert time.monotonic() < deadline, f"not seen within {LIMIT_S:.0f} s: {what}"
            self._take(0.1)

    def all(self, wanted: Callable[[Record], bool]) -> list[Record]:
        """Return what has come until now, after a last look."""
        self.take_all()
        return [r for r in self.seen if wanted(r)]

    def take_all(self) -> None:
        """Take in what is there now."""
        while self._take(0.3):
            pass

    def _take(self, wait_s: float) -> bool:
        message = self._consumer.poll(wait_s)
        if message is None or message.error() is not None:
            return False
        self.seen.append(to_record(message))
        return True

    def close(self) -> None:
        """Hang up."""
        self._consumer.close()


@pytest.fixture(scope="module")
def make_wire(stack: StackAddresses) -> Iterator[Callable[[], Wire]]:
    """Makes plain clients and hangs them up at the module's end; each fetches till then."""
    made: list[Wire] = []

    def make() -> Wire:
        made.append(Wire(stack.kafka_bootstrap_servers))
        return made[-1]

    yield make
    for wire in made:
        wire.close()
