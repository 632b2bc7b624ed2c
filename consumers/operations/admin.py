"""Asks a broker for its topics; an error says whether Kafka is down or refuses this user."""

import time
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata

from config.kafka import KafkaSettings
from producers.refusals import Refusals, client_made

_TRY_S = 1.0


class KafkaAdmin:
    """An admin client that tells a refused user from an unreachable broker."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.refusals = Refusals()
        with client_made():
            self.client = AdminClient(settings.client() | {"error_cb": self.refusals.note})

    def metadata(self, limit_s: float) -> ClusterMetadata:
        """Return brokers and topics.

        Raises KafkaRefused as soon as the broker refuses, KafkaUnavailable after `limit_s`.
        """
        end = time.monotonic() + limit_s
        while True:
            try:
                return self.client.list_topics(timeout=min(_TRY_S, limit_s))
            except KafkaException as error:
                # poll() delivers the connections' errors to `refusals`.
                self.client.poll(0)
                if self.refusals.last or time.monotonic() > end:
                    raise self.refusals.unavailable(error) from error

    def topics(self, limit_s: float) -> dict[str, Any]:
        """Return the metadata of each topic that this user may see, by name."""
        return dict(self.metadata(limit_s).topics)
