"""Kafka client settings, rendered for librdkafka.

Source of the option names: librdkafka's CONFIGURATION.md.
"""

from typing import Annotated, Literal, Self

from pydantic import Field

from config.kafka_security import ClientConfig, Plaintext, Security
from config.section import Section

# How long a broker may delay a fetch; Apache Kafka answers as soon as it has a record.
FETCH_WAIT_MS = 250


class KafkaSettings(Section):
    """How to reach Kafka, and how its clients behave; docs/security.md has the rights they need.

    The groups of the roles are `<group_prefix>-<role>`.
    """

    bootstrap_servers: Annotated[str, Field(min_length=1)] = "127.0.0.1:9092"
    """The brokers, separated by commas."""
    security: Security = Plaintext()
    """How the client authenticates itself: one JSON value, or the single settings below."""
    group_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = "modelserver"
    """Consumer groups are `<prefix>-<role>`."""
    group_protocol: Literal["classic", "consumer"] = "classic"
    """`classic` (cooperative-sticky) or `consumer` (KIP-848, Kafka 4)."""
    session_timeout_ms: Annotated[int, Field(ge=1000)] = 45_000
    """How long a consumer may be silent before it loses its partitions, with the classic protocol;
    6000 with the embedded broker."""
    chat_fetch_wait_ms: Annotated[int, Field(ge=1, le=10_000)] = FETCH_WAIT_MS
    """How long a broker may delay the answer to a fetch of the chat role. Use 10 with the embedded
    broker, which always delays it for the full time."""
    delivery_timeout_ms: Annotated[int, Field(ge=1000)] = 120_000
    """How long a record may wait for the broker's confirmation."""
    replication_factor: Annotated[int, Field(ge=-1)] = -1
    """The replication factor of the topics that ModelServer creates; -1: the broker's default."""

    def client(self) -> ClientConfig:
        """Render what every client has in common."""
        return {
            "bootstrap.servers": self.bootstrap_servers,
            # librdkafka writes a line to standard error for each failed connection, twenty a
            # second while a broker is down. Our callbacks log the failure once, as an event.
            "log_level": 2,
            "reconnect.backoff.max.ms": 2000,
            **self.security.render(),
        }

    def consumer(self, role: str) -> ClientConfig:
        """Render a consumer that commits nothing by itself: the poll loop commits what is done."""
        config: ClientConfig = self.client() | {
            "client.id": f"{self.group_prefix}-{role}",
            "group.id": self.group(role),
            "group.protocol": self.group_protocol,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": self.chat_fetch_wait_ms if role == "chat" else FETCH_WAIT_MS,
            "queued.max.messages.kbytes": 16_384,
            "fetch.message.max.bytes": 4 * 1024 * 1024,
            "allow.auto.create.topics": False,
        }
        if self.group_protocol == "classic":
            # With KIP-848 the broker decides on these two.
            config["partition.assignment.strategy"] = "cooperative-sticky"
            config["session.timeout.ms"] = self.session_timeout_ms
        return config

    def producer(self) -> ClientConfig:
        """Render an idempotent producer that maps keys to partitions as a Java producer does."""
        return self.client() | {
            "client.id": f"{self.group_prefix}-producer",
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 1,
            "partitioner": "murmur2_random",
            "delivery.timeout.ms": self.delivery_timeout_ms,
            "message.max.bytes": 4 * 1024 * 1024,
        }

    def with_delivery_within(self, seconds: float) -> Self:
        """Return a copy whose producers give up a record after `seconds` at the latest."""
        limit_ms = min(self.delivery_timeout_ms, round(seconds * 1000))
        return self.model_copy(update={"delivery_timeout_ms": limit_ms})

    def group(self, role: str) -> str:
        """Name the consumer group of a role."""
        return f"{self.group_prefix}-{role}"
