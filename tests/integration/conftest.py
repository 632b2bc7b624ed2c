"""Real servers: one embedded stack for the session; each test has its own database and topics."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from config.kafka import FETCH_WAIT_MS, KafkaSettings
from config.settings import (
    LogSettings,
    MongoSettings,
    OllamaSettings,
    OpsSettings,
    Settings,
    WorkerSettings,
)
from embedded.kafka import CHAT_FETCH_WAIT_MS, SESSION_TIMEOUT_MS
from embedded.stack import EmbeddedStack, StackAddresses
from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import Store, open_client
from schemas.topics import CATALOGUE
from tests.integration.wire import Wire


@pytest.fixture(scope="session")
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StackAddresses]:
    """Kafka, MongoDB and Ollama (without any model), shared by the whole session."""
    with EmbeddedStack(tmp_path_factory.mktemp("stack")) as addresses:
        if request.config.option.kafka == "apache":
            real = request.getfixturevalue("kafka_bootstrap_servers")
            addresses = addresses.model_copy(update={"kafka_bootstrap_servers": real})
        yield addresses


@pytest.fixture
def mongo(stack: StackAddresses) -> MongoSettings:
    """Settings of a database of this test alone."""
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
    """Makes settings with topics, groups and a database of their own; data goes below a folder."""

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


@pytest.fixture(scope="module")
def make_wire(stack: StackAddresses) -> Iterator[Callable[[], Wire]]:
    """Makes plain clients and closes them at the end of the module."""
    made: list[Wire] = []

    def make() -> Wire:
        made.append(Wire(stack.kafka_bootstrap_servers))
        return made[-1]

    yield make
    for wire in made:
        wire.close()
