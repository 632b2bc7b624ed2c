"""What is told of jobs: their ends and their progress, published at least once and in order."""

from __future__ import annotations

import pytest

from pipeline.ledger.ledger import Ledger
from pipeline.ledger.outbox import Outbox
from pipeline.ledger.progress import ProgressState
from pipeline.storage.mongo import Store
from schemas.errors import LeaseLost
from schemas.events import ErrorBody
from tests.contract.pipeline.ledger.requests import SECONDS, claimed, request, waiting
from tests.fakes.jobs import make_ready


def test_terminal_state_and_its_events_stand_together(ledger: Ledger, store: Store) -> None:
    ledger.accept([request(1)])
    lease = claimed(ledger)
    ledger.report(lease, ProgressState(stage="training", progress=40, step=4, total_steps=10))
    ended = ledger.finish(lease, "succeeded", ready=make_ready(lease.job))
    assert (ended.status, ended.progress, ended.version) == ("succeeded", 100, 1)
    events = waiting(store)
    assert [e.topic for e in events] == ["train-progress", "train-progress", "model-ready"]
    assert [e.data.get("status") for e in events] == ["queued", "succeeded", None]
    assert [e.sequence for e in events] == sorted({e.sequence for e in events})
    assert len({e.id for e in events}) == 3


def test_progress_never_goes_back_within_an_attempt(ledger: Ledger, store: Store) -> None:
    """Work that waited, for Ollama or for room, goes on; a new attempt begins anew."""
    ledger.accept([request(1)])
    lease = claimed(ledger)
    ledger.report(lease, ProgressState(stage="evaluating", progress=88))
    ledger.release(lease, wait_s=0, count_attempt=False)
    again = claimed(ledger)
    assert (again.job.attempt, again.job.progress) == (1, 88)
    ledger.report(again, ProgressState(stage="preparing", progress=0))
    (*_, told) = waiting(store)
    assert (told.data["stage"], told.data["progress"]) == ("preparing", 88)
    ledger.report(again, ProgressState(stage="publishing", progress=97))
    ledger.release(again, wait_s=0, count_attempt=True)
    anew = claimed(ledger)
    assert (anew.job.attempt, anew.job.progress) == (2, 0)


def test_job_ends_once(ledger: Ledger) -> None:
    ledger.accept([request(1)])
    lease = claimed(ledger)
    ledger.finish(lease, "succeeded")
    with pytest.raises(LeaseLost):
        ledger.finish(lease, "failed")
    assert ledger.get(lease.job.id).status == "succeeded"


def test_only_the_newest_unpublished_progress_is_kept(ledger: Ledger, store: Store) -> None:
    ledger.accept([request(1)])
    lease = claimed(ledger)
    for progress in (10, 20, 30):
        ledger.report(lease, ProgressState(stage="training", progress=progress))
    events = waiting(store)
    assert [(e.data["status"], e.data["progress"]) for e in events] == [
        ("queued", 0),
        ("running", 30),
    ]
    assert events[1].data["sequence"] == 4


def test_relay_takes_out_what_it_published_and_nothing_newer(ledger: Ledger, store: Store) -> None:
    outbox = Outbox(store, "test")
    ledger.accept([request(1)])
    lease = claimed(ledger)
    ledger.report(lease, ProgressState(stage="training", progress=10))
    seen = outbox.waiting(10)
    ledger.report(lease, ProgressState(stage="training", progress=20))
    outbox.mark_published(seen)
    assert [e.data["progress"] for e in waiting(store)] == [20]
    outbox.mark_published(outbox.waiting(10))
    assert outbox.waiting(10) == []
    assert outbox.oldest() is None


def test_many_jobs_are_marked_at_once_and_what_is_new_of_some_stays(
    ledger: Ledger, store: Store
) -> None:
    """More than one update marks; jobs have come to different lengths; one ends meanwhile."""
    outbox = Outbox(store, "test")
    ledger.accept([request(number, f"E{number:03}") for number in range(230)])
    told, ended = claimed(ledger), claimed(ledger)
    ledger.report(told, ProgressState(stage="training", progress=10))
    seen = outbox.waiting(1000)
    assert (len(seen), {w.sequence for w in seen}) == (230, {1, 2})
    ledger.finish(ended, "failed", error=ErrorBody(code="x", message="y"))
    outbox.mark_published(seen)
    assert [(e.key, e.data["status"]) for e in waiting(store)] == [(ended.job.elder_id, "failed")]
    outbox.mark_published(outbox.waiting(10))
    assert outbox.oldest() is None


def test_marking_again_or_late_takes_out_nothing_new(ledger: Ledger, store: Store) -> None:
    """Another relay has marked them already, and a job has gone on since."""
    outbox = Outbox(store, "test")
    ledger.accept([request(1), request(2, "ZJG")])
    seen = outbox.waiting(10)
    outbox.mark_published(seen)
    ledger.report(claimed(ledger), ProgressState(stage="training", progress=20))
    outbox.mark_published(seen)
    assert [e.data["progress"] for e in waiting(store)] == [20]


def test_flag_over_an_empty_outbox_is_lowered(ledger: Ledger, store: Store) -> None:
    """A relay of an earlier release may have been cut off between its updates."""
    ledger.accept([request(1)])
    store["jobs"].update_one({"_id": f"LXM_{SECONDS}"}, {"$set": {"outbox": []}})
    outbox = Outbox(store, "test")
    assert [w.events for w in outbox.waiting(10)] == [()]
    outbox.mark_published(outbox.waiting(10))
    assert outbox.waiting(10) == []


def test_event_not_marked_is_given_again_with_the_same_id(ledger: Ledger, store: Store) -> None:
    ledger.accept([request(1)])
    first, again = waiting(store), waiting(store)
    assert [e.id for e in first] == [e.id for e in again]
    assert first == again


def test_what_was_published_of_a_job_is_taken_out_and_the_rest_waits(
    ledger: Ledger, store: Store
) -> None:
    """The broker took the first event, and its topic refuses the next."""
    outbox = Outbox(store, "test")
    ledger.accept([request(1), request(2, "ZJG")])
    lease = claimed(ledger)
    ledger.finish(lease, "succeeded", ready=make_ready(lease.job))
    two = {w.job_id: w for w in outbox.waiting(10)}
    whole = next(w for w in two.values() if w.job_id != lease.job.id)
    outbox.mark_published([two[lease.job.id].first(1), whole])
    (left,) = outbox.waiting(10)
    assert left.job_id == lease.job.id
    assert left.events == two[lease.job.id].events[1:]
    outbox.mark_published([left])
    assert outbox.waiting(10) == []


def test_outbox_gives_the_oldest_jobs_first_and_says_since_when(
    ledger: Ledger, store: Store
) -> None:
    outbox = Outbox(store, "test")
    ledger.accept([request(1)])
    first = outbox.oldest()
    ledger.accept([request(2, "ZJG")])
    assert [w.events[0].key for w in outbox.waiting(1)] == ["LXM"]
    assert [w.events[0].key for w in outbox.waiting(1, skip=1)] == ["ZJG"]
    assert outbox.waiting(1, skip=2) == []
    assert first is not None and outbox.oldest() == first
