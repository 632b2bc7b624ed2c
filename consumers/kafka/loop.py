"""The poll loop: takes records in, hands them on, commits what is durably dealt with.

All calls to the Kafka consumer are made in one thread. While too much is under way records are
held back here, and once enough are held the partitions are paused. Polling goes on, so that the
group never takes this member for dead. A consumer that met a fatal error never works again, and is
replaced.
"""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from config.kafka import KafkaSettings
from config.metrics import Metrics
from consumers.kafka.backlog import HeldBack
from consumers.kafka.backoff import backoff_s
from consumers.kafka.lanes import Executor, Work
from consumers.kafka.offsets import OffsetTracker, Partition, Ticket
from producers.refusals import client_made, refusal
from schemas.record import Header, Record, TimestampType

_POLL_S = 0.1
# While records are held: room for the next one is to be seen soon.
_POLL_HOLDING_S = 0.005
# What is held back at most, but for the rest of one fetch.
_HELD = 2000
_HELD_BYTES = 16 * 1024 * 1024
_COMMIT_INTERVAL_S = 0.5
_LAG_INTERVAL_S = 5.0
# A consumer that lived so long did not die of what the one before died of.
_LONG_LIFE_S = 60.0
_TIMESTAMP_TYPES: dict[int, TimestampType] = {
    TIMESTAMP_CREATE_TIME: "create",
    TIMESTAMP_LOG_APPEND_TIME: "append",
}

log = structlog.get_logger(__name__)


class ConsumerLoop:
    """One role's consumer.

    `limit` is how many records may be under way, `hold` how many more are held back before the
    partitions are paused.
    """

    def __init__(
        self,
        role: str,
        topics: list[str],
        settings: KafkaSettings,
        executor: Executor,
        metrics: Metrics,
        *,
        limit: int,
        hold: int = _HELD,
        grace_s: float = 20.0,
        wall_clock: Callable[[], float] = time.time,
        make_consumer: Callable[[dict[str, Any]], Consumer] = Consumer,
    ) -> None:
        self._role = role
        self._topics = topics
        callbacks = {"error_cb": self._on_error, "on_commit": self._on_commit}
        self._config = settings.consumer(role) | callbacks
        self._make_consumer = make_consumer
        self._consumer = self._make()
        self._made_at = time.monotonic()
        self._deaths = 0
        self._died_of: str | None = None
        self._executor = executor
        self._metrics = metrics
        self._limit = limit
        self._grace_s = grace_s
        self._wall_clock = wall_clock
        self._tracker = OffsetTracker()
        self._finished: queue.SimpleQueue[Ticket] = queue.SimpleQueue()
        self._held = HeldBack(hold, _HELD_BYTES)
        self._paused = False
        self._next_commit = 0.0
        self._next_lag = 0.0
        self.last_poll = 0.0
        self.assigned = False
        """Whether the group gave this member its part, and has not taken all of it away."""
        self.refused: str | None = None
        """What Kafka refuses this consumer, until partitions or records come after all."""

    def run(self, stop: threading.Event) -> None:
        """Consume until `stop` is set; then finish what is under way, commit and leave."""
        self._executor.start(self._finished.put)
        self._subscribe()
        try:
            while not stop.is_set():
                try:
                    self._step()
                except KafkaException as error:  # It died between two calls, or one was refused.
                    self._on_error(error.args[0])
                if self._died_of is not None:
                    self._replace(self._died_of, stop)
        finally:
            self._leave()

    def _make(self) -> Consumer:
        with client_made():
            return self._make_consumer(self._config)

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            self._topics, on_assign=self._assign, on_revoke=self._revoke, on_lost=self._lose
        )

    def _step(self) -> None:
        self._touch()
        self._poll()
        self._settle()
        self._hand_on()
        self._pause_or_resume()
        now = time.monotonic()
        if now >= self._next_commit:
            self._commit(asynchronous=True)
            self._next_commit = now + _COMMIT_INTERVAL_S
        if now >= self._next_lag:
            self._measure_lag()
            self._next_lag = now + _LAG_INTERVAL_S

    def _poll(self) -> None:
        # poll() returns with the first record; consume() alone would wait for a full batch.
        first = self._consumer.poll(_POLL_HOLDING_S if self._held else _POLL_S)
        if first is None:
            return
        # Before the next call: partitions may be taken from us within it.
        self._take(first)
        room = self._limit - self._tracker.in_flight + self._held.room - 1
        if room > 0:
            for message in self._consumer.consume(room, 0):
                self._take(message)

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            self._on_error(error)
            return
        self.refused = None
        record = to_record(message)
        # Its partition may have been taken from us within the very call that gave it.
        if self._tracker.holds(record.topic, record.partition):
            self._held.put(record)

    def _settle(self) -> None:
        """Close the tickets of what was finished."""
        while True:
            try:
                self._tracker.finish(self._finished.get_nowait())
            except queue.Empty:
                break

    def _hand_on(self) -> None:
        """Give the executor as many of the records held as may be under way."""
        while self._held and self._tracker.in_flight < self._limit:
            held = self._held.take()
            record = held.record
            if self._tracker.goes_back(record.topic, record.partition, record.offset):
                self._metrics.rebalances.labels(self._role, "reset").inc()
                log.warning("consumer.offsets_reset", role=self._role, position=record.position)
            ticket = self._tracker.start(record.topic, record.partition, record.offset)
            if ticket is not None:
                work = Work(record=record, ticket=ticket, received_at=held.received_at)
                self._executor.submit(work)
        self._metrics.in_flight.labels(self._role).set(self._tracker.in_flight)

    def _pause_or_resume(self) -> None:
        if self._held.is_full:
            # Each time: partitions assigned meanwhile must be paused too.
            self._consumer.pause(self._consumer.assignment())
            self._set_paused(True)
        elif self._paused and self._held.is_half_empty:
            self._consumer.resume(self._consumer.assignment())
            self._set_paused(False)

    def _set_paused(self, paused: bool) -> None:
        if paused != self._paused:
            log.info("consumer.paused" if paused else "consumer.resumed", role=self._role)
        self._paused = paused
        self._metrics.paused.labels(self._role).set(paused)

    def _commit(self, *, asynchronous: bool, only: set[Partition] | None = None) -> None:
        positions = {
            partition: offset
            for partition, offset in self._tracker.committable().items()
            if only is None or partition in only
        }
        if not positions:
            return
        offsets = [TopicPartition(t, p, offset) for (t, p), offset in positions.items()]
        # Before the call: a refusal may come at any time after it.
        self._tracker.mark_committed(positions)
        try:
            if asynchronous:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            # Not lost: the same position is committed again, or the records come once more.
            log.warning("consumer.commit_failed", role=self._role, error=error.args[0].name())
            self._tracker.mark_refused(list(positions))

    def _leave(self) -> None:
        finished = self._executor.stop(self._grace_s)
        if not finished:
            log.warning("consumer.left_work", role=self._role, under_way=self._tracker.in_flight)
        self._settle()
        self._commit(asynchronous=False)
        self._close()
        self.assigned = False

    def _close(self) -> None:
        with suppress(KafkaException):  # A dead one may say once more what it died of.
            self._consumer.close()

    def _replace(self, died_of: str, stop: threading.Event) -> None:
        """Join the group anew with another consumer; what was under way comes again.

        No ticket counts any more: somebody else may have the partitions already.
        """
        self._forget(set(self._tracker.held))
        lived_s = time.monotonic() - self._made_at
        self._deaths = 1 if lived_s > _LONG_LIFE_S else self._deaths + 1
        wait_s = backoff_s(self._deaths)
        self._metrics.rebalances.labels(self._role, "died").inc()
        log.error("consumer.died", role=self._role, error=died_of, wait_s=round(wait_s, 2))
        if stop.wait(wait_s):
            return
        self._close()
        self._died_of = None
        self._consumer = self._make()
        self._made_at = time.monotonic()
        self._subscribe()

    def _assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._tracker.assign([(p.topic, p.partition) for p in partitions])
        self._metrics.rebalances.labels(self._role, "assigned").inc()
        log.info("consumer.assigned", role=self._role, partitions=len(partitions))
        if partitions:
            self.refused = None
        # Last: who sees that the role is ready finds its count and its log line there.
        self.assigned = True

    def _revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._settle()
        gone = {(p.topic, p.partition) for p in partitions}
        self._commit(asynchronous=False, only=gone)
        self._forget(gone)
        self._metrics.rebalances.labels(self._role, "revoked").inc()
        log.info("consumer.revoked", role=self._role, partitions=len(partitions))

    def _lose(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Someone else has them already: nothing may be committed.
        self._forget({(p.topic, p.partition) for p in partitions})
        self._metrics.rebalances.labels(self._role, "lost").inc()
        log.warning("consumer.lost", role=self._role, partitions=len(partitions))

    def _forget(self, gone: set[Partition]) -> None:
        """Void the tickets of partitions that are no longer held, and what waits of them."""
        self._tracker.revoke(list(gone))
        self._held.drop(gone)
        self.assigned = bool(self._tracker.held)

    def _touch(self) -> None:
        self.last_poll = self._wall_clock()
        self._metrics.last_poll.labels(self._role).set(self.last_poll)

    def _measure_lag(self) -> None:
        for partition in self._consumer.position(self._consumer.assignment()):
            try:
                _, end = self._consumer.get_watermark_offsets(partition, cached=True)
            except KafkaException:
                continue
            if partition.offset >= 0 and end >= 0:
                labels = (partition.topic, str(partition.partition))
                self._metrics.lag.labels(*labels).set(max(end - partition.offset, 0))

    def _on_error(self, error: KafkaError) -> None:
        # From poll() comes the bare code; the callback is told what it stands for.
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._died_of = self._died_of or error.name()
        known = refusal(error)
        if known is None:
            log.warning("consumer.kafka_error", role=self._role, error=error.name())
        elif known != self.refused:
            # Said once, and at /readyz: librdkafka goes on trying, and says it each time.
            log.error("consumer.refused", role=self._role, error=error.name(), reason=known)
            self.refused = known

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """Note what an asynchronous commit came to; called from the poll thread."""
        for position in offsets:
            refused = error or position.error
            if refused is not None and refused.code() != KafkaError._NO_OFFSET:
                log.warning("consumer.commit_failed", role=self._role, error=refused.name())
                self._tracker.mark_refused([(position.topic, position.partition)])


def to_record(message: Message) -> Record:
    """Read a client message; a tombstone's value is None."""
    kind, milliseconds = message.timestamp()
    headers = _headers(message)
    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=_bytes(message.key()),
        value=_bytes(message.value()),
        headers=headers or (),
        timestamp_ms=max(milliseconds, 0),
        timestamp_type=_TIMESTAMP_TYPES.get(kind, "none"),
        is_readable=headers is not None,
    )


def _headers(message: Message) -> tuple[Header, ...] | None:
    """The headers, or None where a name is no UTF-8.

    The client (2.16) ends such a call with SystemError, and what a second call gives it may not
    be touched. Kafka itself lets a name be any bytes, so anyone may send one.
    """
    try:
        return tuple((name, _bytes(value)) for name, value in message.headers() or ())
    except (SystemError, UnicodeError):
        return None


def _bytes(value: object) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode()
