"""Commits: tells the broker how far a role has come, and repeats commits that it refused."""

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from consumers.kafka.offsets import OffsetTracker, Partition

log = structlog.get_logger(__name__)


class OffsetCommits:
    """Commits what the tracker says may be committed.

    A refused commit loses nothing: the same position is committed again, or, after a rebalance,
    its records are read once more.
    """

    def __init__(self, role: str, tracker: OffsetTracker) -> None:
        self._role = role
        self._tracker = tracker

    def commit(
        self, consumer: Consumer, *, asynchronous: bool, only: set[Partition] | None = None
    ) -> None:
        """Commit the partitions' new positions, or those of the partitions `only`.

        Does not raise when the broker refuses. An asynchronous commit's outcome arrives at
        `on_commit`.
        """
        positions = {
            partition: offset
            for partition, offset in self._tracker.committable().items()
            if only is None or partition in only
        }
        if not positions:
            return
        offsets = [TopicPartition(t, p, offset) for (t, p), offset in positions.items()]
        # Marked before the call: a refusal may arrive at any time after it.
        self._tracker.mark_committed(positions)
        try:
            if asynchronous:
                consumer.commit(offsets=offsets, asynchronous=True)
            else:
                consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            log.warning("consumer.commit_failed", role=self._role, error=error.args[0].name())
            self._tracker.mark_refused(list(positions))

    def on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """Take in an asynchronous commit's outcome; the client calls this in the poll thread."""
        for position in offsets:
            refused = error or position.error
            if refused is not None and refused.code() != KafkaError._NO_OFFSET:
                log.warning("consumer.commit_failed", role=self._role, error=refused.name())
                self._tracker.mark_refused([(position.topic, position.partition)])
