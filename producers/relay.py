"""The relay: publishes the events of the ledger's outbox, at least once.

Only events that the broker confirmed are marked as published. An event that is published twice
has the same id both times. The loop around it is in `consumers/workers/relay_worker.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, Self, TypeVar

from producers.delivery_failures import raise_first
from producers.publisher import Publication
from schemas.envelope import OutboundEvent
from schemas.errors import MessageTooLarge, NoSuchTopic

_REFUSALS = (NoSuchTopic, MessageTooLarge)


class WaitingEvents(Protocol):
    """The unpublished events of one job, in order."""

    @property
    def events(self) -> tuple[OutboundEvent, ...]:
        """The unpublished events, in order."""

    def first(self, count: int) -> Self:
        """Return the first `count` events: those published while the rest still waits."""


W = TypeVar("W", bound=WaitingEvents)


class OutboxPort(Protocol[W]):
    """Where events wait. Both methods raise StoreUnavailable."""

    def waiting(self, limit: int, skip: int = 0) -> list[W]:
        """Return the unpublished events of up to `limit` jobs, oldest first, after `skip` jobs."""

    def mark_published(self, published: list[W]) -> None:
        """Remove published events from the outbox."""


class Relay:
    """Publishes the outbox's events; `deliver` waits for the broker and returns the failures."""

    def __init__(
        self,
        outbox: OutboxPort[W],
        encode: Callable[[OutboundEvent], Publication],
        deliver: Callable[[Iterable[Publication]], Mapping[int, Exception]],
        may_publish: Callable[[], bool] = lambda: True,
        *,
        batch: int = 1000,
    ) -> None:
        """`may_publish` is asked just before each batch: two relays would mix up events' order."""
        self._outbox = outbox
        self._encode = encode
        self._deliver = deliver
        self._may_publish = may_publish
        self._batch = batch

    def run_once(self) -> int:
        """Publish one batch and return how many events it had.

        Raises StoreUnavailable, or the first event's failure; unmarked events are published again
        in a later round. A refused event blocks the later events of its own job and of no other:
        while blocked jobs fill a batch, the round goes on with the next batch.
        """
        sent = passed_over = 0
        first: Mapping[int, Exception] = {}
        while waiting := self._outbox.waiting(self._batch, passed_over):
            if not self._may_publish():
                break
            events = [event for job in waiting for event in job.events]
            failures = self._deliver(self._encode(event) for event in events)
            published, blocked = _sort(waiting, failures)
            self._outbox.mark_published(published)
            first = first or failures
            sent, passed_over = len(events), passed_over + blocked
            if len(waiting) < self._batch or not _are_refusals(failures):
                break
        raise_first(first)
        return sent


def _are_refusals(failures: Mapping[int, Exception]) -> bool:
    """Say whether topics refused the events while Kafka itself is up."""
    return bool(failures) and all(isinstance(f, _REFUSALS) for f in failures.values())


def _sort(waiting: Iterable[W], failures: Mapping[int, Exception]) -> tuple[list[W], int]:
    """Return each job's events up to its first failure, and the number of jobs with a failure."""
    published: list[W] = []
    blocked = begin = 0
    for job in waiting:
        end = begin + len(job.events)
        first = next((n for n in range(begin, end) if n in failures), None)
        if first is None:
            published.append(job)
        else:
            blocked += 1
            published += [job.first(first - begin)] if first > begin else []
        begin = end
    return published, blocked
