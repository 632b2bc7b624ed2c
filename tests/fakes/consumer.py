"""A Kafka consumer in memory, with the client's habits: what happens to it happens in `poll`.

Partitions come and go, records and errors arrive and commits are confirmed in the order in which
a test says so. Records of a paused partition wait; a dead consumer refuses every call; a closed
one may not be used at all.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from config.kafka_security import ClientConfig
from consumers.kafka.lanes import Done, Work

TOPIC = "t"


class FakeMessage:
    """A record of a partition, or an error, as the client hands it out."""

    def __init__(self, partition: int, offset: int, error: KafkaError | None = None) -> None:
        self.partition: Callable[[], int] = lambda: partition
        self.offset: Callable[[], int] = lambda: offset
        self.error: Callable[[], KafkaError | None] = lambda: error

    def topic(self) -> str:
        return TOPIC

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return b"{}"

    def headers(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_CREATE_TIME, 1


class FakeConsumer:
    """One member's consumer; `then` says what its next polls bring."""

    def __init__(self, config: ClientConfig) -> None:
        self._callbacks: dict[str, Any] = dict(config)
        self._events: deque[Callable[[], FakeMessage | None]] = deque()
        self._waiting: list[FakeMessage] = []
        self._assigned: set[int] = set()
        self._quiet = threading.Event()
        self.paused: set[int] = set()
        self.commits: list[dict[int, int]] = []
        self.asynchronous: list[bool] = []
        self.refusal: KafkaError | None = None
        """What the next commits are refused with."""
        self.refusal_to_read: KafkaError | None = None
        """What `consume` fails with."""
        self.is_dead = False
        self.is_closed = False

    # What a test says -------------------------------------------------------------------------

    def gives(self, *partitions: int) -> None:
        """The group gives partitions."""

        def give() -> None:
            self._assigned |= set(partitions)
            self._on_assign(self, _places(partitions))

        self._events.append(give)

    def takes(self, *partitions: int, first: Callable[[], None] = lambda: None) -> None:
        """The group takes partitions back, and waits until they are let go.

        `first` happens in the same moment.
        """

        def take() -> None:
            first()
            self._on_revoke(self, _places(partitions))
            self._let_go(partitions)

        self._events.append(take)

    def loses(self, *partitions: int) -> None:
        """The group has given the partitions to others already."""

        def lose() -> None:
            self._let_go(partitions)
            self._on_lost(self, _places(partitions))

        self._events.append(lose)

    def brings(self, partition: int, *offsets: int) -> None:
        """Records arrive."""
        for offset in offsets:
            self._events.append(lambda offset=offset: FakeMessage(partition, offset))  # type: ignore[misc]

    def fails(self, code: int, *, fatal: bool = False) -> None:
        """An error is told; after a fatal one nothing works."""

        def fail() -> None:
            self.is_dead = fatal
            self._callbacks["error_cb"](KafkaError(code, "a fault", fatal))

        self._events.append(fail)

    def confirms(self, partition: int, code: int | None = None) -> None:
        """The broker answers an asynchronous commit."""

        def confirm() -> None:
            error = None if code is None else KafkaError(code)
            self._callbacks["on_commit"](error, _places([partition]))

        self._events.append(confirm)

    @property
    def is_idle(self) -> bool:
        """Say whether all that was to happen has happened."""
        return not self._events

    # The client's side ------------------------------------------------------------------------

    def subscribe(self, topics: list[str], on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self._on_assign, self._on_revoke, self._on_lost = on_assign, on_revoke, on_lost

    def poll(self, timeout: float) -> FakeMessage | None:
        assert not self.is_closed, "RuntimeError: Consumer closed"
        if self.is_dead:
            return FakeMessage(0, -1001, KafkaError(KafkaError._FATAL))
        for waiting in self._waiting:
            if waiting.partition() not in self.paused:
                self._waiting.remove(waiting)
                return waiting
        if not self._events:
            self._quiet.wait(min(timeout, 0.005))
            return None
        message = self._events.popleft()()
        if message is not None and message.partition() in self.paused:
            self._waiting.append(message)
            return None
        return message

    def consume(self, num_messages: int, timeout: float) -> list[FakeMessage]:
        self._enter()
        if self.refusal_to_read is not None:
            raise KafkaException(self.refusal_to_read)
        return []

    def assignment(self) -> list[TopicPartition]:
        self._enter()
        return _places(sorted(self._assigned))

    def pause(self, partitions: list[TopicPartition]) -> None:
        self._enter()
        self.paused |= {p.partition for p in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self._enter()
        self.paused -= {p.partition for p in partitions}

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self._enter()
        if self.refusal is not None:
            raise KafkaException(self.refusal)
        assert {p.partition for p in offsets} <= self._assigned, (
            "nobody may commit for another owner"
        )
        self.commits.append({p.partition: p.offset for p in offsets})
        self.asynchronous.append(asynchronous)

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        self._enter()
        return partitions

    def get_watermark_offsets(self, partition: TopicPartition, *, cached: bool) -> tuple[int, int]:
        return 0, -1001

    def close(self) -> None:
        assert not self.is_closed, "RuntimeError: Consumer closed"
        self.is_closed = True
        if self.is_dead:
            raise KafkaException(KafkaError(KafkaError._FATAL))

    def _let_go(self, partitions: tuple[int, ...]) -> None:
        self._assigned -= set(partitions)
        self.paused -= set(partitions)

    def _enter(self) -> None:
        assert not self.is_closed, "RuntimeError: Consumer closed"
        if self.is_dead:
            raise KafkaException(KafkaError(KafkaError._FATAL))


class HandExecutor:
    """Keeps what it is handed until a test deals with it."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self._done: Done = lambda ticket: None

    def start(self, done: Done) -> None:
        self._done = done

    def submit(self, work: Work) -> None:
        self.works.append(work)

    def stop(self, limit_s: float) -> bool:
        return True

    @property
    def threads(self) -> list[threading.Thread]:
        return []

    def deal_with(self, *offsets: int) -> None:
        """Finish the first records of these offsets that are still there."""
        for offset in offsets:
            work = next(w for w in self.works if w.record.offset == offset)
            self.works.remove(work)
            self._done(work.ticket)

    @property
    def offsets(self) -> list[int]:
        """What is under way."""
        return [work.record.offset for work in self.works]


def _places(partitions: Any) -> list[TopicPartition]:
    return [TopicPartition(TOPIC, partition) for partition in partitions]
