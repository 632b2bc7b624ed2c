"""What the tests of the ledger share: requests, a claim that must succeed, unpublished events."""

from __future__ import annotations

from datetime import UTC, datetime

from pipeline.ledger.leases import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.new_job import NewJob
from pipeline.ledger.outbox import Outbox
from pipeline.storage.mongo import Store
from schemas.envelope import OutboundEvent

AT = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = int(AT.timestamp())
FAIR_S = 600.0


def request(
    number: int, elder: str = "LXM", *, job_id: str | None = None, name: str = "李秀梅"
) -> NewJob:
    """A request; its number is its event's id and its place in the partition."""
    return NewJob(
        request_source="upstream",
        request_id=f"event-{number}",
        requested_at=AT,
        elder_id=elder,
        elder_name=name,
        force_retrain=False,
        job_id=job_id,
        base_model=None,
        overrides={"epochs": 2},
        traceparent=None,
        queue_order=number,
    )


def claimed(ledger: Ledger, owner: str = "a") -> Lease:
    """Claim a job; fails where there is none."""
    lease = ledger.claim(owner)
    assert lease is not None
    return lease


def waiting(store: Store) -> list[OutboundEvent]:
    """Return all unpublished events."""
    return [event for job in Outbox(store, "test").waiting(100) for event in job.events]
