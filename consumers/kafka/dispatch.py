"""Dispatch: each record is handled, set aside with a reason, or retried.

A handler raises an error to say what went wrong. This module decides what to do about it, in the
same way for every handler.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import structlog

from config.metrics import Metrics
from consumers.kafka.backoff import Backoff
from consumers.kafka.faults import describe_fault
from consumers.kafka.lanes import Work
from producers.dead_letters import dead_letter, empty_dead_letter
from producers.publisher import Publication
from schemas.base import Frozen
from schemas.envelope import Envelope, open_envelope
from schemas.errors import (
    InternalError,
    ModelServerError,
    NoSuchTopic,
    RejectError,
    RetryError,
    Stopped,
    TopicRefused,
)
from schemas.record import Record

# A record up to this size fits, with its reason, into a topic with the default limit of 1 MiB.
_SMALL_BYTES = 512 * 1024

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Received(Frozen):
    """A record and its opened envelope."""

    record: Record
    envelope: Envelope


Rejection = tuple[Received, RejectError]


class Handler(Protocol):
    """Handles the records of one topic."""

    def handle(self, received: Sequence[Received]) -> list[Rejection]:
        """Handle all records durably and return those that were refused.

        May be called again with the same records, so it must be idempotent. Raises RetryError
        when a dependency is down.
        """

    def refuse(self, record: Record, error: RejectError) -> Publication | None:
        """Build the error reply to a refused record; None makes the record a dead letter."""


class Dispatcher:
    """Runs a handler over the records of one catalogue topic."""

    def __init__(
        self,
        topic: str,
        group: str,
        handler: Handler,
        confirm: Callable[[Iterable[Publication]], None],
        metrics: Metrics,
        stop: threading.Event,
        *,
        max_bytes: int,
    ) -> None:
        self._topic = topic
        self._group = group
        self._handler = handler
        self._confirm = confirm
        self._metrics = metrics
        self._stop = stop
        self._max_bytes = max_bytes

    def process(self, works: list[Work]) -> None:
        """Process records; returns once each is handled or set aside.

        Raises Stopped when the process stops before that.
        """
        begun = time.perf_counter()
        opened, refused = self._open([work.record for work in works])
        rejections = self._with_backoff(lambda: self._handle(opened))
        refused += [(received.record, error) for received, error in rejections]
        self._with_backoff(lambda: self._set_aside(refused))
        self._count(len(works) - len(refused), time.perf_counter() - begun)

    def _open(
        self, records: Iterable[Record]
    ) -> tuple[list[Received], list[tuple[Record, RejectError]]]:
        opened: list[Received] = []
        refused: list[tuple[Record, RejectError]] = []
        for record in records:
            try:
                envelope = open_envelope(record, self._topic, self._max_bytes)
                opened.append(Received(record=record, envelope=envelope))
            except RejectError as error:
                refused.append((record, error))
            except Exception as error:  # the handlers' edge: no record may end a lane
                log.error("record.failed", topic=self._topic, fault=describe_fault(error))
                refused.append((record, InternalError()))
        return opened, refused

    def _handle(self, opened: list[Received]) -> list[Rejection]:
        if not opened:
            return []
        try:
            return self._handler.handle(opened)
        except RejectError as error:  # what the handler published for a record was refused
            if len(opened) == 1:
                return [(opened[0], error)]
        except ModelServerError:
            raise
        except Exception as error:  # the handlers' edge: a bug must not stop the consumer
            log.error("handler.failed", topic=self._topic, fault=describe_fault(error))
            if len(opened) == 1:
                return [(opened[0], InternalError())]
        # One of several records is at fault: handle each alone to find it.
        return [rejection for one in opened for rejection in self._handle([one])]

    def _set_aside(self, refused: list[tuple[Record, RejectError]]) -> None:
        self._send_dead_letters([one for one in refused if not self._is_answered(*one)])
        for record, error in refused:
            self._metrics.dead_letters.labels(self._topic, error.code).inc()
            self._metrics.consumed.labels(self._topic, "refused").inc()
            log.warning(
                "record.refused", topic=self._topic, position=record.position, code=error.code
            )

    def _is_answered(self, record: Record, error: RejectError) -> bool:
        """Publish the error reply; False if there is none or its topic does not take it."""
        try:
            reply = self._handler.refuse(record, error)
            if reply is not None:
                self._confirm([reply])
        except (NoSuchTopic, RejectError):
            return False
        except ModelServerError:
            raise
        except Exception as fault:  # the handlers' edge: no record may end a lane
            log.error("refusal.failed", topic=self._topic, fault=describe_fault(fault))
            return False
        return reply is not None

    def _send_dead_letters(self, refused: list[tuple[Record, RejectError]]) -> None:
        """Send dead letters: the small ones together, those that may be too large one by one."""
        alone = [one for one in refused if one[0].size > _SMALL_BYTES]
        together = [one for one in refused if one[0].size <= _SMALL_BYTES]
        try:
            self._confirm([dead_letter(r, self._group, error) for r, error in together])
        except RejectError:
            alone = refused  # The topic's size limit is below the broker's default.
        for record, error in alone:
            self._send_alone(record, error)

    def _send_alone(self, record: Record, error: RejectError) -> None:
        try:
            self._confirm([dead_letter(record, self._group, error)])
        except RejectError:
            log.warning("letter.emptied", position=record.position, bytes=record.size)
            try:
                self._confirm([empty_dead_letter(record, self._group, error)])
            except RejectError as refusal:
                raise TopicRefused from refusal  # Retried: an operator must raise the limit.

    def _with_backoff(self, act: Callable[[], T]) -> T:
        """Repeat `act` until its dependencies are up; raises Stopped when the process stops."""
        backoff = Backoff()
        while True:
            try:
                return act()
            except RetryError as error:
                wait_s = backoff.next_s()
                self._metrics.retries.labels(self._topic, error.code).inc()
                log.warning(
                    "record.waits",
                    topic=self._topic,
                    code=error.code,
                    reason=error.message,
                    wait_s=round(wait_s, 2),
                )
                if self._stop.wait(wait_s):
                    raise Stopped from error

    def _count(self, done: int, seconds: float) -> None:
        if done:
            self._metrics.consumed.labels(self._topic, "done").inc(done)
        self._metrics.processing.labels(self._topic).observe(seconds)
