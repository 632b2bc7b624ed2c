"""Cancelling: a queued job at once, a running one at its next heartbeat."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.ledger.events import Announcer
from pipeline.ledger.ledger import Ledger
from pipeline.storage.mongo import Store
from schemas.documents import Job
from schemas.errors import JobAlreadyEnded, JobCancelled, UnknownJob
from tests.contract.pipeline.ledger.requests import SECONDS, claimed, request, waiting
from tests.fakes.jobs import make_ready


def test_queued_job_is_cancelled_at_once(ledger: Ledger, store: Store) -> None:
    ledger.accept([request(1)])
    job = ledger.cancel(f"LXM_{SECONDS}")
    assert job.status == "cancelled" and job.error is not None
    assert ledger.claim("a") is None
    assert [e.data["status"] for e in waiting(store)] == ["queued", "cancelled"]


def test_running_job_is_cancelled_at_its_next_heartbeat(ledger: Ledger) -> None:
    ledger.accept([request(1)])
    lease = claimed(ledger)
    ledger.heartbeat(lease)
    assert ledger.cancel(lease.job.id).status == "running"
    with pytest.raises(JobCancelled):
        ledger.heartbeat(lease)
    assert ledger.finish(lease, "cancelled").status == "cancelled"


def test_ended_or_unknown_job_cannot_be_cancelled(ledger: Ledger) -> None:
    ledger.accept([request(1)])
    lease = claimed(ledger)
    ledger.finish(lease, "succeeded")
    with pytest.raises(JobAlreadyEnded):
        ledger.cancel(lease.job.id)
    with pytest.raises(UnknownJob):
        ledger.cancel("nobody_1")


def test_cancelled_while_queued_again_stays_cancelled(ledger: Ledger) -> None:
    """Asked while it ran, released before the worker saw it: the next holder learns of it."""
    ledger.accept([request(1)])
    lease = claimed(ledger)
    ledger.cancel(lease.job.id)
    ledger.release(lease, wait_s=0, count_attempt=False)
    with pytest.raises(JobCancelled):
        ledger.heartbeat(claimed(ledger))


@pytest.mark.parametrize("state", ["queued", "running"])
def test_cancel_that_comes_again_is_answered_as_done(ledger: Ledger, state: str) -> None:
    """The command's member died before the commit; meanwhile the job ended."""
    ledger.accept([request(1)])
    job_id = f"LXM_{SECONDS}"
    lease = claimed(ledger) if state == "running" else None
    ledger.cancel(job_id, "family/1")
    ledger.cancel(job_id, "family/1")
    if lease is not None:
        ledger.cancel(job_id, "family/2")
        ledger.finish(lease, "cancelled")
        assert ledger.cancel(job_id, "family/2").status == "cancelled"
    assert ledger.cancel(job_id, "family/1").status == "cancelled"
    for other in ("family/3", None):
        with pytest.raises(JobAlreadyEnded):
            ledger.cancel(job_id, other)


def test_cancelled_job_has_nobody_left_who_could_release_its_version(store: Store) -> None:
    """Its first worker is stopped while it publishes, its second gave it back at once."""
    shut_out: list[tuple[str, int]] = []

    def fence_off(job: Job) -> None:
        shut_out.append((watched.get(job.id).status, job.fence))

    announcer = Announcer(lambda: datetime.now(UTC), "en")
    watched = Ledger(store, announcer, lease_s=60, fair_s=60, fence_off=fence_off)
    watched.accept([request(1)])
    watched.release(claimed(watched), wait_s=0, count_attempt=False)
    watched.release(claimed(watched), wait_s=0, count_attempt=False)
    assert watched.cancel(f"LXM_{SECONDS}").status == "cancelled"
    assert shut_out == [("queued", 3)], "before the job's end, with the next holder's fence"


def test_job_whose_version_was_released_is_not_cancelled_any_more(store: Store) -> None:
    """Its worker died before it could end the job; the next one ends it as what it is."""
    announcer = Announcer(lambda: datetime.now(UTC), "en")
    ledger = Ledger(store, announcer, lease_s=60, fair_s=60, fence_off=lambda job: "a version")
    ledger.accept([request(1)])
    ledger.release(claimed(ledger), wait_s=0, count_attempt=False)
    assert ledger.cancel(f"LXM_{SECONDS}", "family/1").status == "queued"
    assert ledger.cancel(f"LXM_{SECONDS}", "family/1").status == "queued"
    lease = claimed(ledger)
    assert lease.job.cancel_requested
    assert ledger.finish(lease, "succeeded", ready=make_ready(lease.job)).status == "succeeded"
