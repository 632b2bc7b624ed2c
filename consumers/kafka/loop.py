"""The poll loop: fetches records, hands them to the executor and commits what is durably done.

One thread makes all calls to the Kafka consumer. Fetched records that may not start yet wait in the
backlog (`backlog`); while it is full the partitions are paused (`backpressure`). A consumer that
met a fatal error never works again, so it is replaced by a new one.
"""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from config.kafka import KafkaSettings
from config.metrics import Metrics
from consumers.kafka.backlog import Backlog
from consumers.kafka.backoff import Backoff
from consumers.kafka.backpressure import Backpressure
from consumers.kafka.commits import OffsetCommits
from consumers.kafka.lag import measure_lag
from consumers.kafka.lanes import Executor, Work
from consumers.kafka.offsets import OffsetTracker, Partition, Ticket
from consumers.kafka.records import to_record
from producers.refusals import client_made, refusal

_POLL_S = 0.1
# Short, so that a lane that becomes free gets the next waiting record soon.
_POLL_WITH_BACKLOG_S = 0.005
_BACKLOG = 2000
_BACKLOG_BYTES = 16 * 1024 * 1024
_COMMIT_INTERVAL_S = 0.5
_LAG_INTERVAL_S = 5.0
# A consumer that lived this long did not die of the same fault as the one before it, so the backoff
# starts over.
_LONG_LIFE_S = 60.0

log = structlog.get_logger(__name__)


class ConsumerLoop:
    """One role's consumer.

    At most `limit` records are under way at once. Up to `hold` more wait in the backlog before
    the partitions are paused. At the end, work under way gets `grace_s` seconds to finish.
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
        hold: int = _BACKLOG,
        grace_s: float = 20.0,
        wall_clock: Callable[[], float] = time.time,
        make_consumer: Callable[[dict[str, Any]], Consumer] = Consumer,
    ) -> None:
        self._role = role
        self._topics = topics
        self._executor = executor
        self._metrics = metrics
        self._limit = limit
        self._grace_s = grace_s
        self._wall_clock = wall_clock
        self._tracker = OffsetTracker()
        self._commits = OffsetCommits(role, self._tracker)
        self._finished: queue.SimpleQueue[Ticket] = queue.SimpleQueue()
        self._backlog = Backlog(hold, _BACKLOG_BYTES)
        self._backpressure = Backpressure(role, self._backlog, metrics)
        callbacks = {"error_cb": self._on_error, "on_commit": self._commits.on_commit}
        self._config = settings.consumer(role) | callbacks
        self._make_consumer = make_consumer
        self._consumer = self._make()
        self._made_at = time.monotonic()
        self._backoff = Backoff()
        self._died_of: str | None = None
        self._next_commit = 0.0
        self._next_lag = 0.0
        self.last_poll = 0.0
        """When this loop last polled, in Unix seconds."""
        self.assigned = False
        """Whether the group has given this member partitions that it still has."""
        self.refused: str | None = None
        """What Kafka forbids this consumer; None once it gets partitions or records again."""

    def run(self, stop: threading.Event) -> None:
        """Consume until `stop` is set; then finish the work under way, commit and leave."""
        self._executor.start(self._finished.put)
        self._subscribe()
        try:
            while not stop.is_set():
                try:
                    self._step()
                except KafkaException as error:  # It died between two calls, or a call was refused.
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
        self._backpressure.apply(self._consumer)
        now = time.monotonic()
        if now >= self._next_commit:
            self._commits.commit(self._consumer, asynchronous=True)
            self._next_commit = now + _COMMIT_INTERVAL_S
        if now >= self._next_lag:
            measure_lag(self._consumer, self._metrics)
            self._next_lag = now + _LAG_INTERVAL_S

    def _poll(self) -> None:
        # poll() returns at the first record; consume() alone would wait for a full batch.
        first = self._consumer.poll(_POLL_WITH_BACKLOG_S if self._backlog else _POLL_S)
        if first is None:
            return
        # Before consume(): partitions may be revoked within that call.
        self._take(first)
        free = self._limit - self._tracker.in_flight + self._backlog.free - 1
        if free > 0:
            for message in self._consumer.consume(free, 0):
                self._take(message)

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            self._on_error(error)
            return
        self.refused = None
        record = to_record(message)
        # The same call that returned the record may have revoked its partition.
        if self._tracker.is_assigned(record.topic, record.partition):
            self._backlog.put(record)

    def _settle(self) -> None:
        """Close the tickets of the records that are finished."""
        while True:
            try:
                self._tracker.finish(self._finished.get_nowait())
            except queue.Empty:
                break

    def _hand_on(self) -> None:
        """Hand records of the backlog to the executor until `limit` records are under way."""
        while self._backlog and self._tracker.in_flight < self._limit:
            waiting = self._backlog.take()
            record = waiting.record
            if self._tracker.goes_back(record.topic, record.partition, record.offset):
                self._metrics.rebalances.labels(self._role, "reset").inc()
                log.warning("consumer.offsets_reset", role=self._role, position=record.position)
            ticket = self._tracker.start(record.topic, record.partition, record.offset)
            if ticket is not None:
                work = Work(record=record, ticket=ticket, received_at=waiting.received_at)
                self._executor.submit(work)
        self._metrics.in_flight.labels(self._role).set(self._tracker.in_flight)

    def _leave(self) -> None:
        finished = self._executor.stop(self._grace_s)
        if not finished:
            log.warning("consumer.left_work", role=self._role, under_way=self._tracker.in_flight)
        self._settle()
        self._commits.commit(self._consumer, asynchronous=False)
        self._close()
        self.assigned = False

    def _close(self) -> None:
        with suppress(KafkaException):  # A dead consumer may raise its fatal error once more.
            self._consumer.close()

    def _replace(self, died_of: str, stop: threading.Event) -> None:
        """Join the group again with a new consumer; records under way are read again.

        All tickets are void: another member may own the partitions already.
        """
        self._forget(set(self._tracker.assigned))
        if time.monotonic() - self._made_at > _LONG_LIFE_S:
            self._backoff.reset()
        wait_s = self._backoff.next_s()
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
        # Set last: whoever sees the role as ready also finds the metric and the log line above.
        self.assigned = True

    def _revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._settle()
        revoked = {(p.topic, p.partition) for p in partitions}
        self._commits.commit(self._consumer, asynchronous=False, only=revoked)
        self._forget(revoked)
        self._metrics.rebalances.labels(self._role, "revoked").inc()
        log.info("consumer.revoked", role=self._role, partitions=len(partitions))

    def _lose(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Other members own them already: nothing may be committed.
        self._forget({(p.topic, p.partition) for p in partitions})
        self._metrics.rebalances.labels(self._role, "lost").inc()
        log.warning("consumer.lost", role=self._role, partitions=len(partitions))

    def _forget(self, revoked: set[Partition]) -> None:
        """Void the tickets of partitions this member no longer owns; drop their backlog."""
        self._tracker.revoke(list(revoked))
        self._backlog.drop(revoked)
        self.assigned = bool(self._tracker.assigned)

    def _touch(self) -> None:
        self.last_poll = self._wall_clock()
        self._metrics.last_poll.labels(self._role).set(self.last_poll)

    def _on_error(self, error: KafkaError) -> None:
        # poll() reports only _FATAL; the callback gets the error behind it.
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._died_of = self._died_of or error.name()
        known = refusal(error)
        if known is None:
            log.warning("consumer.kafka_error", role=self._role, error=error.name())
        elif known != self.refused:
            # Logged once and shown at /readyz: librdkafka retries, and reports it each time.
            log.error("consumer.refused", role=self._role, error=error.name(), reason=known)
            self.refused = known
