"""The whole service over a real model host: embedded Kafka and MongoDB beside it."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from config.kafka import KafkaSettings
from config.settings import (
    HostSettings,
    LogSettings,
    MongoSettings,
    OllamaSettings,
    OpsSettings,
    Settings,
)
from embedded.bases import install_base
from embedded.kafka import CHAT_FETCH_WAIT_MS, SESSION_TIMEOUT_MS, KafkaServer
from embedded.mongodb import MongoDbServer
from embedded.session import model_dir
from schemas.topics import CATALOGUE
from tests.hosts.family import Family
from tests.integration.service import Service
from tests.integration.wire import Wire
from tests.servers.model_hosts import FoundHost

BASE = "smollm2-135m-instruct"
# Each is a training: where personas share one base there are more of them to keep apart.
ELDERS, ELDERS_WHERE_SHARED = 2, 4


@pytest.fixture(scope="session")
def real_host(model_host: tuple[FoundHost, str] | None) -> tuple[FoundHost, str]:
    """The host of `--model-host`, and its address."""
    if model_host is None:
        pytest.skip("--model-host names no real host; `make test-hosts` tries each that is there")
    return model_host


@pytest.fixture(scope="module")
def family(
    real_host: tuple[FoundHost, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Family]:
    """All roles at work over the real host, and a client that speaks for the families."""
    folder = tmp_path_factory.mktemp("story")
    kafka, mongodb = KafkaServer(folder), MongoDbServer(folder)
    # The safetensors that training makes of a base are kept between runs.
    install_base(BASE, model_dir())
    with kafka.process, mongodb.process:
        settings = _settings(real_host, kafka.bootstrap_servers, mongodb.uri, folder)
        wire = Wire(kafka.bootstrap_servers)
        try:
            with Service(settings, wire) as service:
                is_shared = real_host[0].kind.form == "shared"
                family = Family(service, ELDERS_WHERE_SHARED if is_shared else ELDERS)
                service.wait_until_assigned()
                yield family
                family.leave_no_model()
        finally:
            wire.close()


def _settings(
    real_host: tuple[FoundHost, str], bootstrap_servers: str, mongodb_uri: str, folder: Path
) -> Settings:
    found, address = real_host
    name = f"h{uuid4().hex[:8]}"
    is_role = found.kind.name == "llama-server"
    return Settings(
        kafka=KafkaSettings(
            bootstrap_servers=bootstrap_servers,
            group_prefix=name,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            chat_fetch_wait_ms=CHAT_FETCH_WAIT_MS,
        ),
        mongodb=MongoSettings(uri=mongodb_uri, database=name),
        ollama=OllamaSettings() if is_role else OllamaSettings(host=address),
        host=HostSettings(kind="llama-server", url=address) if is_role else HostSettings(),
        ops=OpsSettings(port=0),
        log=LogSettings(file=False),
        topics={topic.name: f"{name}.{topic.name}" for topic in CATALOGUE},
        data_dir=folder / "data",
        model_dir=model_dir(),
        current_model=BASE,
    )
