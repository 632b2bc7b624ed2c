"""Backpressure: pauses the partitions while the backlog is full, and resumes them at half.

Polling goes on while they are paused, so that the group does not take this member for dead.
"""

import structlog
from confluent_kafka import Consumer

from config.metrics import Metrics
from consumers.kafka.backlog import Backlog

log = structlog.get_logger(__name__)


class Backpressure:
    """Pauses and resumes one role's partitions."""

    def __init__(self, role: str, backlog: Backlog, metrics: Metrics) -> None:
        self._role = role
        self._backlog = backlog
        self._metrics = metrics
        self._is_paused = False

    def apply(self, consumer: Consumer) -> None:
        """Pause or resume the consumer's partitions as the backlog demands."""
        if self._backlog.is_full:
            # On every call: partitions assigned since the last one must be paused too.
            consumer.pause(consumer.assignment())
            self._note(is_paused=True)
        elif self._is_paused and self._backlog.is_half_empty:
            consumer.resume(consumer.assignment())
            self._note(is_paused=False)

    def _note(self, *, is_paused: bool) -> None:
        if is_paused != self._is_paused:
            log.info("consumer.paused" if is_paused else "consumer.resumed", role=self._role)
        self._is_paused = is_paused
        self._metrics.paused.labels(self._role).set(is_paused)
