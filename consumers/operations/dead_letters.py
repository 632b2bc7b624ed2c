"""Reads a dead-letter topic for operators: all dead letters in it, or one of them.

The consumer joins no group and commits nothing, so reading changes nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from config.settings import Settings
from consumers.kafka.records import to_record
from consumers.operations.admin import KafkaAdmin
from consumers.operations.topics import broker_name
from producers.refusals import refusal
from schemas.errors import (
    KafkaRefused,
    KafkaUnavailable,
    NoSuchTopic,
    UnknownCommand,
    UnknownDeadLetter,
)
from schemas.record import Record
from schemas.topics import CATALOGUE, dead_letter_topic

_LIMIT_S = 10.0


class DeadLetters:
    """The dead letters of one inbound topic, by the catalogue's name."""

    def __init__(self, settings: Settings, topic: str) -> None:
        """Raises UnknownCommand for a topic without a dead-letter topic."""
        source = next((t for t in CATALOGUE if t.name == topic and t.direction == "in"), None)
        if source is None:
            known = ", ".join(t.name for t in CATALOGUE if t.direction == "in")
            raise UnknownCommand(f"TOPIC: expected one of: {known}")
        self._settings = settings
        self.source = settings.topic(topic)
        self._name = broker_name(settings, dead_letter_topic(source))

    def all(self) -> Iterator[Record]:
        """Read every dead letter up to the topic's end; raises KafkaUnavailable or NoSuchTopic."""
        with self._open() as (consumer, unread):
            consumer.assign([TopicPartition(self._name, p, OFFSET_BEGINNING) for p in unread])
            while unread:
                message = consumer.poll(_LIMIT_S)
                if message is None:
                    raise KafkaUnavailable
                error = message.error()
                if error is None:
                    yield to_record(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition() or 0)
                else:
                    _raise_unless_transient(error)

    def one(self, partition: int, offset: int) -> Record:
        """Read one dead letter; raises UnknownDeadLetter, KafkaUnavailable or NoSuchTopic."""
        with self._open() as (consumer, there):
            if partition not in there:
                raise UnknownDeadLetter
            consumer.assign([TopicPartition(self._name, partition, offset)])
            while (message := consumer.poll(_LIMIT_S)) is not None:
                error = message.error()
                if error is None and message.offset() == offset:
                    return to_record(message)
                # Past the end, or removed by retention: the client reads on at another offset.
                if error is None or error.code() == KafkaError._PARTITION_EOF:
                    raise UnknownDeadLetter
                _raise_unless_transient(error)
        # The embedded broker does not answer a read beyond its end.
        raise UnknownDeadLetter

    @contextmanager
    def _open(self) -> Iterator[tuple[Consumer, set[int]]]:
        """Yield a consumer and the numbers of the topic's partitions."""
        partitions = self._partitions()
        consumer = Consumer(
            self._settings.kafka.client()
            | {
                "group.id": f"{self._settings.kafka.group_prefix}-dlt",
                "enable.auto.commit": False,
                # Rely on the end that the broker reports while reading. The end offset it gives
                # beforehand can be too small: the embedded one counts one record of a batch.
                "enable.partition.eof": True,
                "fetch.message.max.bytes": 4 * 1024 * 1024,
            }
        )
        try:
            yield consumer, partitions
        finally:
            consumer.close()

    def _partitions(self) -> set[int]:
        # Raises KafkaRefused for a user who may not see the topic or cannot log in.
        found = KafkaAdmin(self._settings.kafka).topics(_LIMIT_S).get(self._name)
        if found is None:
            raise NoSuchTopic(f"topic {self._name} is missing: run `modelserver topics apply`")
        return set(found.partitions)


def _raise_unless_transient(error: KafkaError) -> None:
    if known := refusal(error):
        raise KafkaRefused(known)
    if not error.retriable():
        raise KafkaUnavailable
