"""A service's topics on the secured broker, as each of its users sees them."""

import json
from typing import Any

from config.kafka import KafkaSettings
from config.settings import Settings
from consumers.operations.topics import broker_name
from schemas.access import Right
from schemas.topics import all_topics
from tests.integration.wire import Wire
from tests.servers.secured_kafka import SecuredKafka


class SecuredTopics:
    """One service's topics and groups on the secured broker, and the settings of each user."""

    def __init__(self, broker: SecuredKafka, settings: Settings) -> None:
        self.broker = broker
        self._settings = settings
        self.wire = Wire(broker.kafka.bootstrap_servers)

    def settings(self, user: str, way: str = "SCRAM", **over: Any) -> Settings:
        """Return the settings of a user who authenticates in this way."""
        kafka = self._settings.kafka.model_dump(exclude={"security", "bootstrap_servers"})
        mine = KafkaSettings(**kafka, **self.broker.client(user, way, **over))
        return self._settings.model_copy(update={"kafka": mine})

    def name(self, topic: str) -> str:
        """Return the broker's name of a topic."""
        (found,) = (t for t in all_topics() if t.name == topic)
        return broker_name(self._settings, found)

    def grant(self, right: Right, user: str | None = None) -> None:
        """Grant a right to its principal, or to another user."""
        in_group = right.resource == "group"
        name = self._settings.kafka.group(right.name) if in_group else self.name(right.name)
        self.broker.grant(right, user or right.principal, name)

    def send(self, topic: str, data: object, case: str, *headers: tuple[str, bytes]) -> None:
        """Send bytes as they are, everything else as JSON, with `case` in headers to find it by."""
        value = data if isinstance(data, bytes) else json.dumps(data).encode()
        marks = (("case", case.encode()), ("kafka_correlationId", case.encode()))
        self.wire.send(self.name(topic), value, *(headers or marks), key=b"k")

    def seen(self, topic: str, has: bytes, what: str) -> None:
        """Wait for a record on a topic with these bytes in a header or its value."""
        name = self.name(topic)

        def is_it(record: Any) -> bool:
            return record.topic == name and (
                has in (record.value or b"") or any(has == value for _, value in record.headers)
            )

        self.wire.find(is_it, what)
