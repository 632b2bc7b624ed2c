"""Confirmed delivery: a publication is done when the broker says so, and not before."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, Self

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from config.kafka import KafkaSettings
from config.metrics import Metrics
from producers.refusals import client_made, refusal
from schemas.base import Frozen
from schemas.envelope import OutboundEvent
from schemas.errors import (
    KafkaRefused,
    KafkaUnavailable,
    MessageTooLarge,
    NoSuchTopic,
    TopicRefused,
)
from schemas.record import Header

_POLL_S = 0.1
_CONFIRM_MARGIN_S = 5.0
_ASK_S = 0.5
_NO_SUCH_TOPIC = frozenset(
    {
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_EXCEPTION,
    }
)
# A broker's "no" to this topic or to this record in it; asking again changes nothing.
_TOPIC_REFUSES = frozenset(
    {
        KafkaError.POLICY_VIOLATION,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
    }
)
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})

log = structlog.get_logger(__name__)


# Called with what went wrong, or None once the broker has confirmed; from any thread.
Told = Callable[[Exception | None], None]


class Publication(Frozen):
    """One record to publish, by the broker's topic name.

    Where its partition does not exist it fails with NoSuchTopic, unless it `may_go_elsewhere`: then
    it goes without one, to wherever its key belongs. One in a topic that its reader named
    `is_elsewhere`: such names are without end, and are counted together.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    partition: int | None = None
    may_go_elsewhere: bool = False
    is_elsewhere: bool = False


class Publisher(Protocol):
    """Publishes records and says of each when it is safe."""

    def publish(self, publication: Publication) -> "Future[None]":
        """Hand a record over; the future fails with KafkaUnavailable or MessageTooLarge."""


class _Batch:
    """What became of records that are waited for together: less than a future for each."""

    def __init__(self) -> None:
        self.all_told = threading.Event()
        self._lock = threading.Lock()
        self._expected = 0
        self._left = 1  # The batch itself, until it is closed.
        self.failures: dict[int, Exception] = {}

    def expect(self) -> Told:
        """Give what is to be called, once, with the outcome of the next record."""
        with self._lock:
            number = self._expected
            self._expected += 1
            self._left += 1

        def told(error: Exception | None) -> None:
            if error is not None:
                self.failures[number] = error
            self._one_less()

        return told

    def close(self) -> None:
        """No more records come."""
        self._one_less()

    def _one_less(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self.all_told.set()


class KafkaPublisher:
    """An idempotent producer with a thread of its own that serves the confirmations.

    A producer that met a fatal error (no right to write at all, for one) never works again, so
    the next publication gets a new one; what the old one still held fails and is sent again by
    whoever waits for it.
    """

    def __init__(self, settings: KafkaSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._producer = self._make()
        self._retired: list[Producer] = []
        self._again: queue.SimpleQueue[tuple[Publication, Told]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._metrics = metrics
        self._limit_s = settings.delivery_timeout_ms / 1000 + _CONFIRM_MARGIN_S
        self._refused: str | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="publisher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._producer.flush(_CONFIRM_MARGIN_S)
        self._stopped.set()
        self._thread.join()

    def publish(self, publication: Publication) -> "Future[None]":
        """Hand a record to the producer; waits while its queue is full."""
        confirmed: Future[None] = Future()
        # Whoever waits may give up, as at a deadline; a cancelled future would take no result,
        # and the fault would end the thread that serves everybody's confirmations.
        confirmed.set_running_or_notify_cancel()

        def told(error: Exception | None) -> None:
            if error is None:
                confirmed.set_result(None)
            else:
                confirmed.set_exception(error)

        self._produce(publication, told)
        return confirmed

    def confirm(
        self,
        publications: Iterable[Publication],
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """Publish and wait for all, as `deliver` does; raises the first failure."""
        raise_first(self.deliver(publications, may_go_on))

    def deliver(
        self,
        publications: Iterable[Publication],
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> dict[int, Exception]:
        """Publish, wait for all, and return what failed: its place in the order, and why.

        `may_go_on` is asked while the broker is slow. Once it says no, whatever this producer
        still holds is dropped, not sent later, and KafkaUnavailable is raised; so it is where
        nothing is heard in time.
        """
        batch = _Batch()
        for publication in publications:
            self._produce(publication, batch.expect())
        batch.close()
        deadline = time.monotonic() + self._limit_s
        while not batch.all_told.wait(_ASK_S):
            if not may_go_on():
                self._producer.purge()
                raise KafkaUnavailable("the right to publish was lost while Kafka was waited for")
            if time.monotonic() > deadline:
                raise KafkaUnavailable
        return batch.failures

    def check(self) -> None:
        """Raise KafkaRefused while Kafka refuses this producer."""
        if self._refused is not None:
            raise KafkaRefused(self._refused)

    def _make(self) -> Producer:
        with client_made():
            return Producer(self._settings.producer() | {"error_cb": self._on_error})

    def _replace(self, dead: Producer) -> None:
        with self._lock:
            if dead is self._producer:
                dead.purge()
                self._retired.append(dead)
                self._producer = self._make()

    def _produce(self, publication: Publication, told: Told) -> None:
        """Hand a record to the producer; waits while its queue is full."""
        extra: dict[str, Any] = {}
        if publication.partition is not None:
            extra["partition"] = publication.partition
        while True:
            producer = self._producer
            try:
                producer.produce(
                    publication.topic,
                    key=publication.key,
                    value=publication.value,
                    headers=list(publication.headers),
                    on_delivery=self._confirmation(publication, told),
                    **extra,
                )
                return
            except BufferError:
                # The thread serves confirmations, which is what makes room.
                self._poll(producer, _POLL_S)
            except KafkaException as error:
                if error.args[0].code() == KafkaError._FATAL:
                    self._replace(producer)
                    continue
                self._fail(publication, told, error.args[0])
                return

    def _fail(self, publication: Publication, told: Told, error: KafkaError) -> None:
        if publication.may_go_elsewhere and error.code() == KafkaError._UNKNOWN_PARTITION:
            anywhere = publication.model_copy(update={"partition": None, "may_go_elsewhere": False})
            # By the thread, not here: this may be a callback, which must not wait for room.
            self._again.put((anywhere, told))
            return
        self._metrics.delivery_failures.labels(_label(publication)).inc()
        told(failure_of(error))

    def _confirmation(
        self, publication: Publication, told: Told
    ) -> Callable[[KafkaError | None, Message], None]:
        def on_delivery(error: KafkaError | None, message: Message) -> None:
            if error is None:
                self._refused = None
                self._metrics.delivered.labels(_label(publication)).inc()
                told(None)
            else:
                self._fail(publication, told, error)

        return on_delivery

    def _on_error(self, error: KafkaError) -> None:
        known = refusal(error)
        if known is not None and known != self._refused:
            # Said once: librdkafka goes on trying, and says it each time.
            log.error("publisher.refused", error=error.name(), reason=known)
            self._refused = known
        elif known is None:
            log.warning("publisher.kafka_error", error=error.name())

    def _poll(self, producer: Producer, wait_s: float) -> None:
        try:
            producer.poll(wait_s)
        except KafkaException as error:
            # Only a fatal error is raised here. What this producer holds fails at once, and is
            # published again by whoever waits for it.
            self._on_error(error.args[0])
            producer.purge()

    def _serve(self) -> None:
        while not self._stopped.is_set():
            self._poll(self._producer, _POLL_S)
            self._send_elsewhere()
            for producer in list(self._retired):
                self._poll(producer, 0)
                if len(producer) == 0:
                    self._retired.remove(producer)
        while not self._again.empty():
            self._again.get_nowait()[1](KafkaUnavailable())

    def _send_elsewhere(self) -> None:
        while not self._again.empty():
            self._produce(*self._again.get_nowait())


def to_publication(event: OutboundEvent, topic: str) -> Publication:
    """Encode an event for the broker's topic of that name."""
    return Publication(
        topic=topic,
        key=event.key.encode(),
        value=event.value(),
        headers=tuple(event.headers()),
    )


def _label(publication: Publication) -> str:
    return "other" if publication.is_elsewhere else publication.topic


def raise_first(failures: Mapping[int, Exception]) -> None:
    """Raise the failure of the first record that has one."""
    if failures:
        raise failures[min(failures)]


def failure_of(error: KafkaError) -> Exception:
    """Name a failed delivery by what it asks for: wait, go elsewhere, or make it smaller."""
    if error.code() in _TOO_LARGE:
        return MessageTooLarge("the event is larger than the broker accepts")
    if error.code() in _NO_SUCH_TOPIC:
        return NoSuchTopic()
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return TopicRefused()
    if error.code() in _TOPIC_REFUSES:
        return TopicRefused(f"the topic does not take the event ({error.name()})")
    if known := refusal(error):
        return KafkaRefused(known)
    return KafkaUnavailable(f"Kafka did not take the event ({error.name()})")
