"""A dead-letter topic as operators read it: all letters there are now, or one of them.

It belongs to no group and commits nothing: reading changes nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from config.settings import Settings
from consumers.kafka.loop import to_record
from consumers.operations.admin import KafkaAdmin
from consumers.operations.topics import broker_name
from producers.refusals import refusal
from schemas.errors import (
    KafkaRefused,
    KafkaUnavailable,
    NoSuchTopic,
    UnknownCommand,
    UnknownLetter,
)
from schemas.record import Record
from schemas.topics import CATALOGUE, dead_letter_topic

_LIMIT_S = 10.0


class LetterBox:
    """The dead letters of one inbound topic, by the catalogue's name."""

    def __init__(self, settings: Settings, topic: str) -> None:
        """Raises UnknownCommand for a topic that has none."""
        source = next((t for t in CATALOGUE if t.name == topic and t.direction == "in"), None)
        if source is None:
            known = ", ".join(t.name for t in CATALOGUE if t.direction == "in")
            raise UnknownCommand(f"TOPIC: expected one of: {known}")
        self._settings = settings
        self.source = settings.topic(topic)
        self._name = broker_name(settings, dead_letter_topic(source))

    def all(self) -> Iterator[Record]:
        """Read all letters there are; raises KafkaUnavailable, or NoSuchTopic."""
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
                    _raise_unless_passing(error)

    def one(self, partition: int, offset: int) -> Record:
        """Read one letter; raises UnknownLetter, KafkaUnavailable or NoSuchTopic."""
        with self._open() as (consumer, there):
            if partition not in there:
                raise UnknownLetter
            consumer.assign([TopicPartition(self._name, partition, offset)])
            while (message := consumer.poll(_LIMIT_S)) is not None:
                error = message.error()
                if error is None and message.offset() == offset:
                    return to_record(message)
                # Past the end, or gone from the beginning: reading goes on elsewhere.
                if error is None or error.code() == KafkaError._PARTITION_EOF:
                    raise UnknownLetter
                _raise_unless_passing(error)
        # The embedded broker says nothing at all where it is asked for more than it has.
        raise UnknownLetter

    @contextmanager
    def _open(self) -> Iterator[tuple[Consumer, set[int]]]:
        """Give a consumer and the topic's partitions."""
        partitions = self._partitions()
        consumer = Consumer(
            self._settings.kafka.client()
            | {
                "group.id": f"{self._settings.kafka.group_prefix}-dlt",
                "enable.auto.commit": False,
                # The end is where the broker says so while reading: the end offset it tells
                # beforehand can be too small (the embedded one counts one record of a batch).
                "enable.partition.eof": True,
                "fetch.message.max.bytes": 4 * 1024 * 1024,
            }
        )
        try:
            yield consumer, partitions
        finally:
            consumer.close()

    def _partitions(self) -> set[int]:
        # Who may not see the topic, or cannot even log in, is told so here.
        found = KafkaAdmin(self._settings.kafka).topics(_LIMIT_S).get(self._name)
        if found is None:
            raise NoSuchTopic(f"topic {self._name} is missing: run `modelserver topics apply`")
        return set(found.partitions)


def _raise_unless_passing(error: KafkaError) -> None:
    if known := refusal(error):
        raise KafkaRefused(known)
    if not error.retriable():
        raise KafkaUnavailable
