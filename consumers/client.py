"""A client of the service, like that of an upstream program: sends events, reads events.

It joins no group, so it waits for no assignment: it reads each partition from its end on.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from config.kafka import FETCH_WAIT_MS
from config.settings import Settings
from consumers.kafka.records import to_record
from producers.events import Events
from producers.publisher import KafkaPublisher, Publication
from producers.refusals import Refusals, client_made
from schemas.base import Frozen
from schemas.errors import KafkaUnavailable
from schemas.record import Record
from schemas.rpc import CORRELATION_ID

_LIMIT_S = 10.0


class Incoming(Frozen):
    """An event that was read."""

    topic: str
    correlation_id: bytes | None
    data: dict[str, Any]


class Follower:
    """Reads topics from their end on; use as a context manager."""

    def __init__(
        self, settings: Settings, topics: list[str], *, fetch_wait_ms: int = FETCH_WAIT_MS
    ) -> None:
        """`topics` are names of the catalogue. Raises KafkaUnavailable if one is missing."""
        self._names = {settings.topic(name): name for name in topics}
        refusals = Refusals()
        options = settings.kafka.client() | {
            "group.id": f"{settings.kafka.group_prefix}-follower-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": fetch_wait_ms,
            "error_cb": refusals.note,
        }
        with client_made():
            self._consumer = Consumer(options)
        try:
            self._consumer.assign(list(self._ends()))
        except KafkaException as error:
            # poll() delivers the connections' errors to `refusals`.
            self._consumer.poll(0)
            self._consumer.close()
            raise refusals.unavailable(error) from error

    def _ends(self) -> Iterator[TopicPartition]:
        known = self._consumer.list_topics(timeout=_LIMIT_S).topics
        for name in self._names:
            if name not in known or not known[name].partitions:
                raise KafkaUnavailable(f"topic {name} is missing: run `modelserver topics apply`")
            for partition in known[name].partitions:
                where = TopicPartition(name, partition)
                _, end = self._consumer.get_watermark_offsets(where, timeout=_LIMIT_S)
                yield TopicPartition(name, partition, end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._consumer.close()

    def read(self, wait_s: float) -> Incoming | None:
        """Return the next event, or None if none came within `wait_s`."""
        message = self._consumer.poll(wait_s)
        if message is None or message.error() is not None:
            return None
        return self._incoming(to_record(message))

    def _incoming(self, record: Record) -> Incoming:
        return Incoming(
            topic=self._names[record.topic],
            correlation_id=record.header(CORRELATION_ID),
            data=json.loads(record.value or b"{}"),
        )

    def until(
        self, wanted: Callable[[Incoming], bool], limit_s: float, step_s: float = 0.2
    ) -> Iterator[Incoming | None]:
        """Yield each event up to and including the first one that is `wanted`.

        Yields None after each `step_s` without an event, so that the caller can show progress.
        Raises TimeoutError after `limit_s`.
        """
        end = time.monotonic() + limit_s
        while True:
            incoming = self.read(step_s)
            yield incoming
            if incoming is not None and wanted(incoming):
                return
            if time.monotonic() > end:
                raise TimeoutError(f"no answer within {limit_s:.0f} s; is `modelserver run` up?")


def with_correlation(publication: Publication, correlation: bytes) -> Publication:
    """Add a correlation id to a request; its reply carries the same one."""
    headers = (*publication.headers, (CORRELATION_ID, correlation))
    return publication.model_copy(update={"headers": headers})


def new_id() -> str:
    """Make a new event id."""
    return uuid.uuid4().hex


class Sender:
    """Publishes requests and waits until the broker confirms them."""

    def __init__(self, publisher: KafkaPublisher, events: Events) -> None:
        self.events = events
        self._publisher = publisher

    def send(self, *publications: Publication) -> None:
        """Publish and wait; raises KafkaUnavailable."""
        self._publisher.confirm(publications)
