"""The relay: takes events out of the ledger's outbox and publishes them, at least once.

It marks what the broker confirmed and nothing else. An event published twice has the same id.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, Self, TypeVar

from producers.publisher import Publication, raise_first
from schemas.envelope import OutboundEvent
from schemas.errors import MessageTooLarge, NoSuchTopic

_REFUSALS = (NoSuchTopic, MessageTooLarge)


class WaitingEvents(Protocol):
    """The unpublished events of one job, in order."""

    @property
    def events(self) -> tuple[OutboundEvent, ...]:
        """The events."""

    def first(self, count: int) -> Self:
        """The first events alone, as what was published while the rest waits on."""


W = TypeVar("W", bound=WaitingEvents)


class OutboxPort(Protocol[W]):
    """Where events wait. Both methods raise StoreUnavailable."""

    def waiting(self, limit: int, skip: int = 0) -> list[W]:
        """Return the unpublished events of up to `limit` jobs, oldest first, after `skip` jobs."""

    def mark_published(self, published: list[W]) -> None:
        """Take published events out."""


class Relay:
    """Publishes what waits; `deliver` waits for the broker, and says which of them it has not."""

    def __init__(
        self,
        outbox: OutboxPort[W],
        encode: Callable[[OutboundEvent], Publication],
        deliver: Callable[[Iterable[Publication]], Mapping[int, Exception]],
        may_publish: Callable[[], bool] = lambda: True,
        *,
        batch: int = 1000,
    ) -> None:
        """`may_publish` is asked last: two relays at once would bring events out of order."""
        self._outbox = outbox
        self._encode = encode
        self._deliver = deliver
        self._may_publish = may_publish
        self._batch = batch

    def run_once(self) -> int:
        """Publish one batch and return how many events went out.

        Raises StoreUnavailable, or the first of the failures; what was not marked is published
        again. An event that is refused holds up those of its job behind it, and of no other job,
        however many are: as long as they fill a batch, the next one is published as well.
        """
        sent = passed_over = 0
        first: Mapping[int, Exception] = {}
        while waiting := self._outbox.waiting(self._batch, passed_over):
            if not self._may_publish():
                break
            events = [event for job in waiting for event in job.events]
            failures = self._deliver(self._encode(event) for event in events)
            published, held_up = _sort(waiting, failures)
            self._outbox.mark_published(published)
            first = first or failures
            sent, passed_over = len(events), passed_over + held_up
            if len(waiting) < self._batch or not _are_refusals(failures):
                break
        raise_first(first)
        return sent


def _are_refusals(failures: Mapping[int, Exception]) -> bool:
    """Whether it is topics that refuse, and Kafka itself is there."""
    return bool(failures) and all(isinstance(f, _REFUSALS) for f in failures.values())


def _sort(waiting: Iterable[W], failures: Mapping[int, Exception]) -> tuple[list[W], int]:
    """Return what the broker has of each job, up to the first event that it has not.

    And how many jobs are held up by such an event.
    """
    published: list[W] = []
    held_up = begin = 0
    for job in waiting:
        end = begin + len(job.events)
        first = next((n for n in range(begin, end) if n in failures), None)
        if first is None:
            published.append(job)
        else:
            held_up += 1
            published += [job.first(first - begin)] if first > begin else []
        begin = end
    return published, held_up
