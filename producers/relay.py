"""The relay: takes events out of the ledger's outbox and publishes them, at least once.

It marks what the broker confirmed and nothing else. An event published twice has the same id.
"""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from producers.publisher import Publication
from schemas.envelope import OutboundEvent


class WaitingEvents(Protocol):
    """The unpublished events of one job, in order."""

    @property
    def events(self) -> tuple[OutboundEvent, ...]:
        """The events."""


W = TypeVar("W", bound=WaitingEvents)


class OutboxPort(Protocol[W]):
    """Where events wait. Both methods raise StoreUnavailable."""

    def waiting(self, limit: int) -> list[W]:
        """Return the unpublished events of up to `limit` jobs."""

    def mark_published(self, published: list[W]) -> None:
        """Take published events out."""


class Relay:
    """Publishes what waits; `confirm` returns once the broker has all of it."""

    def __init__(
        self,
        outbox: OutboxPort[W],
        encode: Callable[[OutboundEvent], Publication],
        confirm: Callable[[Iterable[Publication]], None],
        may_publish: Callable[[], bool] = lambda: True,
        *,
        batch: int = 1000,
    ) -> None:
        """`may_publish` is asked last: two relays at once would bring events out of order."""
        self._outbox = outbox
        self._encode = encode
        self._confirm = confirm
        self._may_publish = may_publish
        self._batch = batch

    def run_once(self) -> int:
        """Publish one batch and return how many events went out.

        Raises StoreUnavailable or KafkaUnavailable; what was not marked is published again.
        """
        waiting = self._outbox.waiting(self._batch)
        events = [event for job in waiting for event in job.events]
        if waiting and not self._may_publish():
            return 0
        if waiting:
            self._confirm(self._encode(event) for event in events)
            self._outbox.mark_published(waiting)
        return len(events)
