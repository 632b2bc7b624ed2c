"""The relay's thread: publishes the outbox in rounds.

A lease allows one process at a time to do so, which keeps a job's events in order. One round is in
`producers/relay.py`.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial

import structlog

from config.metrics import Metrics
from config.settings import Settings
from consumers.kafka.backoff import Backoff
from consumers.kafka.faults import describe_fault
from pipeline.ledger.outbox import Outbox
from pipeline.storage.mongo import Store
from pipeline.storage.named_lease import NamedLease
from producers.publisher import KafkaPublisher, Publication
from producers.relay import Relay
from schemas.envelope import OutboundEvent
from schemas.errors import RetryError, StoreUnavailable

_POLL_S = 0.2
_LEASE_S = 5.0

log = structlog.get_logger(__name__)


class RelayWorker:
    """Publishes the outbox while this process has the lease."""

    def __init__(
        self,
        relay: Relay,
        outbox: Outbox,
        lease: NamedLease,
        metrics: Metrics,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._relay = relay
        self._outbox = outbox
        self._lease = lease
        self._metrics = metrics
        self._clock = clock

    def run(self, stop: threading.Event) -> None:
        """Publish until `stop` is set, then once more for what was stored last."""
        backoff = Backoff()
        is_last = False
        while not is_last:
            is_last = stop.is_set()
            try:
                sent = self._run_once()
                backoff.reset()
                if not sent:
                    stop.wait(_POLL_S)
            except RetryError as error:
                log.warning("relay.waits", code=error.code, reason=error.message)
                backoff.wait(stop)
            except Exception as error:  # the thread's edge: events must not wait in silence
                log.error("relay.fault", fault=describe_fault(error))
                backoff.wait(stop)
        with suppress(StoreUnavailable):  # The lease then runs out by itself.
            self._lease.release()

    def _run_once(self) -> int:
        """Publish one batch if the lease is ours; return how many events went out."""
        sent = self._relay.run_once() if self._lease.acquire() else 0
        oldest = self._outbox.oldest() if not sent else None
        age_s = (self._clock() - oldest).total_seconds() if oldest else 0.0
        self._metrics.outbox_age.set(age_s)
        return sent


@contextmanager
def open_relay(
    *,
    settings: Settings,
    store: Store,
    source: str,
    owner: str,
    encode: Callable[[OutboundEvent], Publication],
    metrics: Metrics,
    clock: Callable[[], datetime],
) -> Iterator[RelayWorker]:
    """Make the relay with its lease and a producer of its own; close the producer at the end.

    When the lease is lost, `deliver` drops the producer's undelivered records. If this process was
    suspended meanwhile, librdkafka drops them: it looks for expired records once a second.
    """
    outbox = Outbox(store, source)
    # A renewal may take half of the lease: enough to find another MongoDB server.
    lease_s = max(_LEASE_S, 2 * settings.mongodb.timeout_s)
    lease = NamedLease(store, "relay", owner, lease_s=lease_s)
    limit_s = lease_s / 2 - 1
    with KafkaPublisher(settings.kafka.with_delivery_within(limit_s), metrics) as publisher:
        relay = Relay(
            outbox,
            encode,
            deliver=partial(publisher.deliver, may_go_on=lease.renew),
            may_publish=partial(lease.is_held_for, limit_s + 1),
        )
        yield RelayWorker(relay, outbox, lease, metrics, clock=clock)
