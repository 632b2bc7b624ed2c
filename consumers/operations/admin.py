"""The operator's view of Kafka: which topics there are, and why nobody tells."""

import time
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata

from config.kafka import KafkaSettings
from producers.refusals import Refusals, client_made

_TRY_S = 1.0


class KafkaAdmin:
    """An admin client that knows a refused user from a broker that is away."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.refusals = Refusals()
        with client_made():
            self.client = AdminClient(settings.client() | {"error_cb": self.refusals.note})

    def metadata(self, limit_s: float) -> ClusterMetadata:
        """Return brokers and topics; raises KafkaUnavailable, KafkaRefused as soon as it is so."""
        end = time.monotonic() + limit_s
        while True:
            try:
                return self.client.list_topics(timeout=min(_TRY_S, limit_s))
            except KafkaException as error:
                # The errors of the connections are handed out here.
                self.client.poll(0)
                if self.refusals.last or time.monotonic() > end:
                    raise self.refusals.unavailable(error) from error

    def topics(self, limit_s: float) -> dict[str, Any]:
        """Return what is known of each topic that this user may see."""
        return dict(self.metadata(limit_s).topics)
