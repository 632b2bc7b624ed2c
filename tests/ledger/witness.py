"""A witness of every change to the ledger's jobs; it fails when a guarantee is broken.

It sees each document at the moment of its change (`FakeStore.on_change`) and each event that is
published. It knows the guarantees and nothing of how they are kept. The state machine and the
simulation both use it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pipeline.ledger.leases import Lease
from pipeline.ledger.new_job import NewJob
from schemas.envelope import OutboundEvent
from schemas.events import TERMINAL_STATUSES
from schemas.topics import MODEL_READY, TRAIN_PROGRESS
from tests.fakes.clock import FalseClock
from tests.fakes.mongo_language import Document

# Fields of an ended job that the relay and the coalescing of progress may change.
_OUTBOX_FIELDS = {"outbox", "latest", "has_pending", "pending_since"}


class Crash(BaseException):
    """The process crashed. No code on the way out may catch this and continue."""


def new_request(number: int, elder: str, *, second: int = 0, job_id: str | None = None) -> NewJob:
    """A request; its number is its event's id and its place in the log."""
    return NewJob(
        request_source="upstream",
        request_id=f"event-{number}",
        requested_at=datetime(2026, 1, 1, second=second, tzinfo=UTC),
        elder_id=elder,
        elder_name="李秀梅",
        force_retrain=False,
        job_id=job_id,
        base_model=None,
        overrides={},
        traceparent=None,
        queue_order=number,
    )


def waiting_events(document: Document | None) -> list[Document]:
    """Return a job's unpublished events."""
    if document is None:
        return []
    return [*document["outbox"], *filter(None, [document.get("latest")])]


class Witness:
    """Watches one ledger. `is_one_relay`: only then are first publications in order."""

    def __init__(self, clock: FalseClock, *, is_one_relay: bool = True) -> None:
        self.jobs: dict[str, Document] = {}
        self.published: dict[str, OutboundEvent] = {}
        self.lease_at_work: Callable[[], Lease | None] = lambda: None
        self._clock = clock
        self._is_one_relay = is_one_relay
        self._events: dict[str, Document] = {}
        self._furthest: dict[str, tuple[int, int]] = {}
        self._last_published: dict[str, int] = {}
        self._last_begun: dict[str, int] = {}

    # Publishing -----------------------------------------------------------------------------

    def publish(self, event: OutboundEvent) -> None:
        """Record an event as the broker would; one published twice must be identical."""
        known = self.published.setdefault(event.id, event)
        assert known == event, f"{event.id} was published with another content"
        job_id = event.data["job_id"]
        if known is event and self._is_one_relay:
            last = self._last_published.get(job_id, 0)
            assert event.sequence is not None and event.sequence > last, f"{event.id} comes late"
            self._last_published[job_id] = event.sequence

    def check_all_published(self) -> None:
        """Check at the end that every job ended, and that each end was reported once."""
        for job_id, job in self.jobs.items():
            assert job["status"] in TERMINAL_STATUSES, f"{job_id} never ended: {job['status']}"
            assert not job["has_pending"] and not waiting_events(job), f"{job_id} is unpublished"
            published = {e.id for e in self.published.values() if e.data["job_id"] == job_id}
            assert {e["event_id"] for e in self._terminal_events(job_id)} <= published

    # Claiming -------------------------------------------------------------------------------

    def begin(self, lease: Lease) -> None:
        """Check a claim: the jobs of one elder begin in the order of the log."""
        job = self.jobs[lease.job.id]
        if (job["status"], job["fence"]) != ("running", lease.fence):
            return  # The lease expired before its holder received it: none of its writes counts.
        elder, order = job["elder_id"], job["queue_order"]
        for other in self.jobs.values():
            is_before = other["elder_id"] == elder and other["queue_order"] < order
            is_passed = is_before and other["status"] == "queued"
            assert not is_passed, f"{job['_id']} overtook {other['_id']}"
        assert self._last_begun.get(elder, 0) <= order, f"{job['_id']} was overtaken"
        self._last_begun[elder] = order

    # Changing -------------------------------------------------------------------------------

    def change(self, before: Document | None, after: Document) -> None:
        """Check one write."""
        self._check_holder(before)
        if before is None:
            assert (after["status"], after["fence"], after["sequence"]) == ("queued", 0, 1)
            assert after["has_pending"], "a new job has an event to publish"
        else:
            self._check_step(before, after)
        self._check_events(before, after)
        self.jobs[after["_id"]] = after
        names = ("request_source", "request_id", "elder_id")
        requests = {tuple(j[name] for name in names) for j in self.jobs.values()}
        assert len(requests) == len(self.jobs), "a request has two jobs"

    def _check_holder(self, before: Document | None) -> None:
        lease = self.lease_at_work()
        if lease is not None:
            assert before is not None and before["_id"] == lease.job.id
            found = (before["fence"], before["status"])
            assert found == (lease.fence, "running"), (
                f"a lease of fence {lease.fence} wrote {found}"
            )

    def _check_step(self, before: Document, after: Document) -> None:
        assert after["sequence"] >= before["sequence"], "the sequence went back"
        is_given_back = (before["status"], after["status"]) == ("running", "queued")
        failed = after["failures"] - before["failures"]
        assert failed in ((0, 1) if is_given_back else (0,)), "a failure nobody reported"
        if after["fence"] != before["fence"]:
            self._check_claim(before, after)
            return
        steps: dict[str, set[str]] = {
            "queued": {"queued", "cancelled"},
            "running": {"running", "queued", *TERMINAL_STATUSES},
        }
        was, is_now = before["status"], after["status"]
        assert after["urgent"] or not before["urgent"], "an urgent job was put back in line"
        assert is_now in steps.get(was, {was}), f"{was} became {is_now}"
        if was != "running" and is_now == was:
            changed = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
            allowed = _OUTBOX_FIELDS | ({"urgent"} if was == "queued" else set())
            assert changed <= allowed, f"a {was} job changed in {changed}"

    def _check_claim(self, before: Document, after: Document) -> None:
        assert before["status"] in ("queued", "running") and after["status"] == "running"
        is_new = before["status"] == "running" or not before["given_back"]
        counted = (after["fence"], after["attempt"])
        assert counted == (before["fence"] + 1, before["attempt"] + is_new)
        assert after["lease_until"] > self._clock.now
        if before["status"] == "running":
            assert before["lease_until"] < self._clock.now, "a lease that still runs was taken"
        elif before["not_before"] is not None:
            assert before["not_before"] <= self._clock.now, "a job that backs off was taken"
        for other in self.jobs.values():
            is_beside = other["elder_id"] == after["elder_id"] and other["_id"] != after["_id"]
            assert not (is_beside and other["status"] == "running"), "two jobs of one elder run"

    def _check_events(self, before: Document | None, after: Document) -> None:
        waiting = waiting_events(after)
        assert after["has_pending"] or not waiting, "an event waits without its flag"
        for event in waiting:
            if event["event_id"] not in self._events:
                self._check_progress(event)
            known = self._events.setdefault(event["event_id"], event)
            assert known == event, f"{event['event_id']} changed"
        kept = {event["event_id"] for event in waiting}
        for event in waiting_events(before):
            is_gone = event["event_id"] not in kept and event["event_id"] not in self.published
            if is_gone:
                assert before is not None and event == before.get("latest"), "an event was lost"
                newest = max((e["sequence"] for e in waiting), default=0)
                assert newest > event["sequence"], "the newest progress was lost"
        ends = self._terminal_events(after["_id"])
        progress = [e for e in ends if e["topic"] == TRAIN_PROGRESS.name]
        assert len(progress) == (after["status"] in TERMINAL_STATUSES), "an end is reported once"
        is_ready = after["status"] == "succeeded" and after["version"] is not None
        assert len(ends) - len(progress) == is_ready, "model-ready goes with success"

    def _check_progress(self, event: Document) -> None:
        """Check that progress never goes back within an attempt, and that attempts never do."""
        if event["topic"] != TRAIN_PROGRESS.name:
            return
        reached = event["data"]["attempt"], event["data"]["progress"]
        before = self._furthest.get(_job_of(event), (0, 0))
        assert reached >= before, f"{event['event_id']} went back from {before} to {reached}"
        self._furthest[_job_of(event)] = reached

    def _terminal_events(self, job_id: str) -> list[Document]:
        """Return the events, waiting or published, that report a job's end."""
        return [e for e in self._events.values() if _job_of(e) == job_id and _is_terminal(e)]


def _job_of(event: Document) -> Any:
    return event["data"]["job_id"]


def _is_terminal(event: Document) -> bool:
    is_ready = event["topic"] == MODEL_READY.name
    return is_ready or event["data"].get("status") in TERMINAL_STATUSES
