"""The servers of a campaign, started once for all its runs."""

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from embedded.stack import EmbeddedStack, StackAddresses
from tests.chaos.tiny_base import make_tiny_base, tiny_gguf
from tests.servers.apache_kafka import ApacheKafka

KafkaKind = Literal["embedded", "apache"]
BROKERS = 3
_LIMIT_S = 60.0


class World:
    """Kafka, MongoDB, Ollama and the tiny base, while the context is open."""

    def __init__(self, folder: Path, kafka: KafkaKind) -> None:
        self.folder = folder
        self.kafka = kafka
        self.cluster: ApacheKafka | None = None
        self._stack = ExitStack()
        self._bouncing = threading.Lock()

    def __enter__(self) -> Self:
        try:
            servers = self._stack.enter_context(EmbeddedStack(self.folder / "stack"))
            if self.kafka == "apache":
                self.cluster = ApacheKafka(self.folder / "kafka", nodes=BROKERS)
                self._stack.enter_context(self.cluster)
                real = {"kafka_bootstrap_servers": self.cluster.bootstrap_servers}
                servers = servers.model_copy(update=real)
            self.servers: StackAddresses = servers
            self.training_config = make_tiny_base(self.folder / "models")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def base_gguf(self) -> Path:
        """The GGUF file of the tiny base."""
        return tiny_gguf(self.folder / "models")

    @property
    def mongodb_port(self) -> int:
        """The port of MongoDB itself; each session puts a proxy before it."""
        return urlsplit(self.servers.mongodb_uri).port or 0

    @property
    def ollama_port(self) -> int:
        """The port of Ollama itself; each session puts a proxy before it."""
        return urlsplit(self.servers.ollama_host).port or 0

    def coordinator(self, group: str) -> int:
        """Return the node that coordinates a group."""
        deadline = time.monotonic() + _LIMIT_S
        while True:
            # A new client each time: a client keeps asking the coordinator that it found first.
            admin = AdminClient(
                {"bootstrap.servers": self.servers.kafka_bootstrap_servers, "log_level": 2}
            )
            try:
                return int(admin.describe_consumer_groups([group])[group].result(3).coordinator.id)
            except (KafkaException, TimeoutError):
                if time.monotonic() > deadline:
                    raise

    def bounce(self, node: int, *, hard: bool, away_s: float) -> None:
        """Stop a broker and start it again on its data; only one at a time, to keep a majority."""
        assert self.cluster is not None
        broker = self.cluster.brokers[node - 1]
        with self._bouncing:
            broker.stop(hard=hard)
            time.sleep(away_s)
            broker.start()
            broker.wait_until_ready()
