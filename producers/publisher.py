"""Publishes records to Kafka; a publication is done once the broker has confirmed it."""

import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, Self

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from config.kafka import KafkaSettings
from config.metrics import Metrics
from producers.confirmations import ConfirmationBatch, Told
from producers.delivery_failures import failure_of, raise_first
from producers.refusals import client_made, refusal
from schemas.base import Frozen
from schemas.envelope import OutboundEvent
from schemas.errors import KafkaRefused, KafkaUnavailable
from schemas.record import Header

_POLL_S = 0.1
_CONFIRM_MARGIN_S = 5.0
_ASK_S = 0.5

log = structlog.get_logger(__name__)


class Publication(Frozen):
    """One record to publish, by the broker's topic name.

    If its partition does not exist, it fails with NoSuchTopic; with `may_go_elsewhere`, the client
    chooses a partition by the key instead.

    `is_elsewhere`: a reply topic chosen by the caller. Such names are unbounded, so they share one
    metric label.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    partition: int | None = None
    may_go_elsewhere: bool = False
    is_elsewhere: bool = False


class Publisher(Protocol):
    """Publishes records and reports each one's confirmation."""

    def publish(self, publication: Publication) -> "Future[None]":
        """Hand a record over; the future fails with KafkaUnavailable or MessageTooLarge."""


class KafkaPublisher:
    """An idempotent producer, with a thread that serves its confirmations.

    A producer that met a fatal error (such as no right to write at all) never works again, so the
    next publication gets a new one. The old one's undelivered records fail, and their callers
    publish them again.
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
        """Hand a record to the producer, waiting while its queue is full."""
        confirmed: Future[None] = Future()
        # Not cancellable. A caller may give up, as at a deadline, but setting the result of a
        # cancelled future raises, which would end the thread that serves all confirmations.
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
        """Publish and wait as `deliver` does; raises the first record's failure."""
        raise_first(self.deliver(publications, may_go_on))

    def deliver(
        self,
        publications: Iterable[Publication],
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> dict[int, Exception]:
        """Publish all, wait for all, and return the failures by the record's position.

        `may_go_on` is asked every half second while the broker is slow. Once it returns False, the
        producer's undelivered records are dropped, and KafkaUnavailable is raised. It is also
        raised if the confirmations do not arrive in time.
        """
        batch = ConfirmationBatch()
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
        """Hand a record to the producer, waiting while its queue is full."""
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
                # Serving confirmations frees the queue.
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
            # Sent by the thread: this may be a callback, which must not wait for a full queue.
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
            # Logged once: librdkafka retries, and reports it each time.
            log.error("publisher.refused", error=error.name(), reason=known)
            self._refused = known
        elif known is None:
            log.warning("publisher.kafka_error", error=error.name())

    def _poll(self, producer: Producer, wait_s: float) -> None:
        try:
            producer.poll(wait_s)
        except KafkaException as error:
            # Only a fatal error is raised here. The producer's undelivered records fail at once,
            # and their callers publish them again.
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
    """Encode an event for a topic, by the broker's name."""
    return Publication(
        topic=topic,
        key=event.key.encode(),
        value=event.value(),
        headers=tuple(event.headers()),
    )


def _label(publication: Publication) -> str:
    return "other" if publication.is_elsewhere else publication.topic
