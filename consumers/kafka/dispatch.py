"""From record to outcome: done, set aside with a reason, or tried again until it can be done.

This is the handlers' edge. A handler says what went wrong by raising; what becomes of it is
decided here, for all alike.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import structlog

from config.metrics import Metrics
from consumers.kafka.backoff import backoff_s, describe_fault
from consumers.kafka.lanes import Work
from producers.dead_letters import dead_letter, empty_letter
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

# A letter of this size fits any topic as brokers make them (1 MiB), with the reason.
_SMALL_BYTES = 512 * 1024

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Received(Frozen):
    """A record with its envelope opened."""

    record: Record
    envelope: Envelope


Rejection = tuple[Received, RejectError]


class Handler(Protocol):
    """Deals with the records of one topic."""

    def handle(self, received: Sequence[Received]) -> list[Rejection]:
        """Deal with all of these durably and return those that were refused.

        May be called again with the same records. Raises RetryError when a dependency is down.
        """

    def refuse(self, record: Record, error: RejectError) -> Publication | None:
        """Build the error reply for a record, or None: then it becomes a dead letter."""


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
        """Deal with records; returns when each is done or set aside.

        Raises Stopped when the program stops before that.
        """
        begun = time.perf_counter()
        opened, refused = self._open([work.record for work in works])
        rejections = self._patiently(lambda: self._handle(opened))
        refused += [(received.record, error) for received, error in rejections]
        self._patiently(lambda: self._set_aside(refused))
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
        except RejectError as error:  # what it published for a record was refused
            if len(opened) == 1:
                return [(opened[0], error)]
        except ModelServerError:
            raise
        except Exception as error:  # the handlers' edge: a bug must not stop the consumer
            log.error("handler.failed", topic=self._topic, fault=describe_fault(error))
            if len(opened) == 1:
                return [(opened[0], InternalError())]
        # One record of several is at fault: find it by handling each alone.
        return [rejection for one in opened for rejection in self._handle([one])]

    def _set_aside(self, refused: list[tuple[Record, RejectError]]) -> None:
        self._send_letters([one for one in refused if not self._is_answered(*one)])
        for record, error in refused:
            self._metrics.dead_letters.labels(self._topic, error.code).inc()
            self._metrics.consumed.labels(self._topic, "refused").inc()
            log.warning(
                "record.refused", topic=self._topic, position=record.position, code=error.code
            )

    def _is_answered(self, record: Record, error: RejectError) -> bool:
        """Publish the error reply; False where there is none, or no place that takes it."""
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

    def _send_letters(self, refused: list[tuple[Record, RejectError]]) -> None:
        """Send dead letters: small ones together, and what may be too large by itself."""
        alone = [one for one in refused if one[0].size > _SMALL_BYTES]
        together = [one for one in refused if one[0].size <= _SMALL_BYTES]
        try:
            self._confirm([dead_letter(r, self._group, error) for r, error in together])
        except RejectError:
            alone = refused  # A topic with a smaller limit than brokers have.
        for record, error in alone:
            self._send_alone(record, error)

    def _send_alone(self, record: Record, error: RejectError) -> None:
        try:
            self._confirm([dead_letter(record, self._group, error)])
        except RejectError:
            log.warning("letter.emptied", position=record.position, bytes=record.size)
            try:
                self._confirm([empty_letter(record, self._group, error)])
            except RejectError as refusal:
                raise TopicRefused from refusal  # Waited for: only an operator can mend that.

    def _patiently(self, act: Callable[[], T]) -> T:
        """Do it until its dependencies let it be done; raises Stopped at the program's end."""
        attempt = 0
        while True:
            try:
                return act()
            except RetryError as error:
                attempt += 1
                wait_s = backoff_s(attempt)
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
