"""Kafka client settings, rendered for librdkafka.

Source of the option names: librdkafka's CONFIGURATION.md.
"""

from typing import Annotated, Literal, Self

from pydantic import Field

from config.kafka_security import Case, ClientConfig, Plaintext, Security

# How long a broker may hold a fetch; Apache Kafka answers as soon as there is a record.
FETCH_WAIT_MS = 250


class KafkaSettings(Case):
    """How to reach Kafka; times in milliseconds."""

    bootstrap_servers: Annotated[str, Field(min_length=1)] = "127.0.0.1:9092"
    security: Security = Plaintext()
    group_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = "modelserver"
    group_protocol: Literal["classic", "consumer"] = "classic"
    session_timeout_ms: Annotated[int, Field(ge=1000)] = 45_000
    # For a broker that holds each fetch to the end, as the embedded one: people wait for a chat.
    chat_fetch_wait_ms: Annotated[int, Field(ge=1, le=10_000)] = FETCH_WAIT_MS
    delivery_timeout_ms: Annotated[int, Field(ge=1000)] = 120_000
    replication_factor: Annotated[int, Field(ge=-1)] = -1

    def client(self) -> ClientConfig:
        """What every client has in common."""
        return {
            "bootstrap.servers": self.bootstrap_servers,
            # librdkafka writes a line to standard error at each failed connection, twenty a
            # second while a broker is down; our own callbacks say it once, as a log event.
            "log_level": 2,
            "reconnect.backoff.max.ms": 2000,
            **self.security.render(),
        }

    def consumer(self, role: str) -> ClientConfig:
        """A consumer that commits by hand, and only what is dealt with."""
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
            # With KIP-848 the broker owns these two.
            config["partition.assignment.strategy"] = "cooperative-sticky"
            config["session.timeout.ms"] = self.session_timeout_ms
        return config

    def producer(self) -> ClientConfig:
        """An idempotent producer whose keys land where a Java producer's do."""
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
        """The same, whose producers give a record up after so long, if not before."""
        limit_ms = min(self.delivery_timeout_ms, round(seconds * 1000))
        return self.model_copy(update={"delivery_timeout_ms": limit_ms})

    def group(self, role: str) -> str:
        """Name the consumer group of a role."""
        return f"{self.group_prefix}-{role}"
