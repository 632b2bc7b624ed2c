"""The ledger: accepted once, held by one, told of to the end; on the fake store and a real one.

The state machines and the simulation (tests/unit) rest on the fake store: this suite shows that
it is no easier than the real one. On the fake, waiting moves its false clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

import pytest

from pipeline.ledger.leases import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.new_job import NewJob
from pipeline.ledger.outbox import Announcer, Outbox
from pipeline.ledger.progress import ProgressState
from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import Store
from schemas.documents import ElderModel, Job
from schemas.envelope import OutboundEvent
from schemas.errors import JobAlreadyEnded, JobCancelled, LeaseLost, UnknownJob
from schemas.events import ErrorBody
from schemas.identifiers import numbered
from tests.fakes.clock import FalseClock
from tests.fakes.jobs import make_ready
from tests.waiting import wait_for

WaitUntil = Callable[[Callable[[], object], str], None]
AT = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = int(AT.timestamp())
SHORT_S = 0.15
FAIR_S = 600.0


@pytest.fixture
def wait_until(clock: FalseClock | None) -> WaitUntil:
    """Waits for a condition, on the false clock where there is one; fails with its name."""
    return partial(wait_for, pause=clock.advance if clock else None)


@pytest.fixture
def ledger(store: Store) -> Ledger:
    """A ledger whose leases last for the test."""
    return Ledger(store, Announcer(lambda: datetime.now(UTC), "en"), lease_s=60, fair_s=FAIR_S)


@pytest.fixture
def hasty(store: Store) -> Ledger:
    """A ledger over the same store whose leases end at once."""
    return Ledger(store, Announcer(lambda: datetime.now(UTC), "en"), lease_s=SHORT_S, fair_s=FAIR_S)


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


@pytest.mark.parametrize("together", [True, False])
def test_request_of_another_elder_under_a_known_id_is_a_job_of_its_own(
    ledger: Ledger, together: bool
) -> None:
    """A sender that numbers anew after a restart: the second elder was never trained."""
    first, second = request(1, "LXM"), request(1, "WEI")
    batches = [[first, second]] if together else [[first], [second]]
    assert sum(ledger.accept(batch) for batch in batches) == 2
    assert ledger.accept([second, first]) == 0, "both come again: redelivery changes nothing"
    assert [len(ledger.jobs(elder_id=e)) for e in ("LXM", "WEI")] == [1, 1]


@pytest.mark.parametrize("batches", [[300], [50] * 6])
def test_many_requests_of_one_second_are_numbered_in_their_order(
    ledger: Ledger, batches: list[int]
) -> None:
    """Name after name was tried for each: ten thousand of them never came to an end."""
    requests = [request(number) for number in range(1, sum(batches) + 1)]
    rest = requests
    for size in batches:
        assert ledger.accept(rest[:size]) == size
        rest = rest[size:]
    assert ledger.accept(requests[-20:]) == 0
    jobs = ledger.jobs(limit=1000)
    ids = [job.id for job in sorted(jobs, key=lambda job: int(job.request_id.split("-")[1]))]
    assert ids == [numbered(ids[0], number) for number in range(1, len(requests) + 1)]


def claimed(ledger: Ledger, owner: str = "a") -> Lease:
    """Claim what must be there."""
    lease = ledger.claim(owner)
    assert lease is not None
    return lease


def taken_over(ledger: Ledger, wait_until: WaitUntil, owner: str = "b") -> Lease:
    """Claim a job once its lease has run out."""
    found: list[Lease] = []

    def claim() -> bool:
        if (lease := ledger.claim(owner)) is not None:
            found.append(lease)
        return bool(found)

    wait_until(claim, "the expired job is taken over")
    return found[0]


def waiting(store: Store) -> list[OutboundEvent]:
    """All unpublished events."""
    return [event for job in Outbox(store, "test").waiting(100) for event in job.events]


# -- accepting --------------------------------------------------------------------------------


def test_accepted_job_is_queued_with_its_name_and_its_event(ledger: Ledger, store: Store) -> None:
    assert ledger.accept([request(1)]) == 1
    job = ledger.get(f"LXM_{SECONDS}")
    assert (job.status, job.attempt, job.fence, job.overrides) == ("queued", 0, 0, {"epochs": 2})
    (event,) = waiting(store)
    assert (event.topic, event.key, event.data["status"]) == ("train-progress", "LXM", "queued")


def test_redelivered_request_changes_nothing(ledger: Ledger) -> None:
    assert ledger.accept([request(1)]) == 1
    assert ledger.accept([request(1), request(1)]) == 0
    assert len(ledger.jobs()) == 1


def test_redelivery_after_the_end_does_not_train_again(ledger: Ledger) -> None:
    ledger.accept([request(1)])
    ledger.finish(claimed(ledger), "failed", error=ErrorBody(code="x", message="y"))
    assert ledger.accept([request(1)]) == 0
    assert ledger.claim("a") is None


def test_other_requests_of_the_same_second_get_a_suffix(ledger: Ledger) -> None:
    assert ledger.accept([request(1)]) == 1
    assert ledger.accept([request(2), request(3)]) == 2
    ids = {job.id for job in ledger.jobs()}
    assert ids == {f"LXM_{SECONDS}", f"LXM_{SECONDS}_2", f"LXM_{SECONDS}_3"}


def test_taken_name_of_the_senders_choice_gets_a_suffix(ledger: Ledger) -> None:
    ledger.accept([request(1, job_id="mine"), request(2, job_id="mine")])
    assert {job.id for job in ledger.jobs()} == {"mine", "mine_2"}


def test_batch_with_duplicates_inside_is_accepted_once_each(ledger: Ledger) -> None:
    batch = [request(1), request(2, "ZJG"), request(1), request(3), request(2, "ZJG")]
    assert ledger.accept(batch) == 3
    assert sorted(j.request_id for j in ledger.jobs()) == ["event-1", "event-2", "event-3"]


def test_empty_batch_is_no_write(ledger: Ledger) -> None:
    assert ledger.accept([]) == 0


def test_name_that_looks_like_a_field_path_stays_a_name(ledger: Ledger) -> None:
    """Claims are pipelines, in which `$name` would be a field."""
    ledger.accept([request(1, name="$status")])
    lease = claimed(ledger, owner="$status")
    assert lease.job.elder_name == "$status"
    assert ledger.get(lease.job.id).owner == "$status"


# -- claiming ---------------------------------------------------------------------------------


def test_of_many_workers_one_gets_the_job(ledger: Ledger) -> None:
    ledger.accept([request(1)])
    won: list[Lease] = []
    begin = threading.Barrier(6)

    def work(name: str) -> None:
        begin.wait()
        if (lease := ledger.claim(name)) is not None:
            won.append(lease)

    workers = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(won) == 1
    job = ledger.get(won[0].job.id)
    assert (job.status, job.attempt, job.fence, job.owner) == ("running", 1, 1, won[0].owner)


def test_jobs_of_one_elder_run_one_at_a_time_in_order(ledger: Ledger) -> None:
    ledger.accept([request(3), request(1), request(2)])
    order = []
    for _ in range(3):
        lease = claimed(ledger)
        assert ledger.claim("other") is None, "a second job of the elder must wait"
        order.append(lease.job.request_id)
        ledger.finish(lease, "succeeded")
    assert order == ["event-1", "event-2", "event-3"]


def test_another_elders_job_runs_beside(ledger: Ledger) -> None:
    ledger.accept([request(1), request(2), request(3, "ZJG")])
    assert {claimed(ledger).job.elder_id, claimed(ledger).job.elder_id} == {"LXM", "ZJG"}
    assert ledger.claim("c") is None


def test_released_job_keeps_its_place_before_later_ones(ledger: Ledger) -> None:
    ledger.accept([request(1), request(2)])
    ledger.release(claimed(ledger), wait_s=0, count_attempt=False)
    again = claimed(ledger)
    assert (again.job.request_id, again.job.attempt, again.fence) == ("event-1", 1, 2)


def test_elder_whose_job_backs_off_waits_with_all_jobs(ledger: Ledger) -> None:
    ledger.accept([request(1), request(2), request(3, "ZJG")])
    ledger.release(claimed(ledger), wait_s=60, count_attempt=True)
    assert claimed(ledger).job.elder_id == "ZJG"
    assert ledger.claim("a") is None


def test_backed_off_job_comes_again_and_its_attempt_counts(
    ledger: Ledger, wait_until: WaitUntil
) -> None:
    ledger.accept([request(1)])
    ledger.release(claimed(ledger), wait_s=SHORT_S, count_attempt=True)
    again = taken_over(ledger, wait_until)
    assert (again.job.attempt, again.fence) == (2, 2)


def test_only_what_a_worker_reports_counts_as_a_failure(
    ledger: Ledger, hasty: Ledger, wait_until: WaitUntil
) -> None:
    """A worker that is killed reports nothing; a job given back is as if it had not begun."""
    ledger.accept([request(1)])
    ledger.release(claimed(ledger), wait_s=0, count_attempt=True)
    claimed(hasty)
    lease = taken_over(ledger, wait_until)
    assert (lease.job.attempt, lease.job.failures) == (3, 1)
    ledger.release(lease, wait_s=0, count_attempt=False)
    ledger.release(claimed(ledger), wait_s=0, count_attempt=True)
    job = ledger.get(lease.job.id)
    assert (job.attempt, job.failures) == (3, 2)


def test_failures_of_a_job_from_before_they_were_counted_are_counted_from_now_on(
    ledger: Ledger, store: Store
) -> None:
    ledger.accept([request(1)])
    store["jobs"].update_one({"_id": f"LXM_{SECONDS}"}, {"$unset": {"failures": ""}})
    lease = claimed(ledger)
    assert lease.job.failures == 0
    ledger.release(lease, wait_s=0, count_attempt=True)
    assert ledger.get(lease.job.id).failures == 1


# -- leases -----------------------------------------------------------------------------------


def test_expired_lease_is_taken_over_with_a_higher_fence(
    ledger: Ledger, hasty: Ledger, wait_until: WaitUntil
) -> None:
    ledger.accept([request(1)])
    first = claimed(hasty, "a")
    second = taken_over(ledger, wait_until)
    assert (second.job.id, second.fence, second.job.attempt) == (first.job.id, first.fence + 1, 2)


def test_zombie_can_write_nothing(
    ledger: Ledger, hasty: Ledger, store: Store, wait_until: WaitUntil
) -> None:
    ledger.accept([request(1)])
    zombie = claimed(hasty, "a")
    holder = taken_over(ledger, wait_until)
    before = store["jobs"].find_one({"_id": holder.job.id})
    writes: list[Callable[[], object]] = [
        lambda: hasty.heartbeat(zombie),
        lambda: hasty.report(zombie, ProgressState(stage="training", progress=50)),
        lambda: hasty.release(zombie, wait_s=0, count_attempt=False),
        lambda: hasty.finish(zombie, "succeeded", ready=make_ready(zombie.job)),
        lambda: hasty.finish(zombie, "failed"),
    ]
    for write in writes:
        with pytest.raises(LeaseLost):
            write()
    assert store["jobs"].find_one({"_id": holder.job.id}) == before


def test_heartbeat_renews_the_lease(ledger: Ledger, store: Store) -> None:
    ledger.accept([request(1)])
    lease = claimed(ledger)
    ends = [store["jobs"].find_one({"_id": lease.job.id})["lease_until"]]  # type: ignore[index]
    ledger.heartbeat(lease)
    ends.append(store["jobs"].find_one({"_id": lease.job.id})["lease_until"])  # type: ignore[index]
    assert ends[0] < ends[1]
    assert ledger.claim("b") is None


def test_lease_that_still_runs_is_not_taken(ledger: Ledger) -> None:
    ledger.accept([request(1)])
    claimed(ledger, "a")
    assert ledger.claim("b") is None


# -- cancelling -------------------------------------------------------------------------------


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


# -- what is told -----------------------------------------------------------------------------


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


def test_jobs_are_listed_newest_first_and_by_elder_and_status(ledger: Ledger) -> None:
    ledger.accept([request(1), request(2, "ZJG"), request(3)])
    claimed(ledger)
    assert [j.request_id for j in ledger.jobs(elder_id="LXM")] == ["event-3", "event-1"]
    assert [j.request_id for j in ledger.jobs(status="running")] == ["event-1"]
    assert len(ledger.jobs(limit=2)) == 2
    assert (ledger.count("queued"), ledger.count("running")) == (2, 1)


def test_states_of_an_elders_jobs_are_told_by_id(ledger: Ledger) -> None:
    ledger.accept([request(1), request(2, "ZJG"), request(3)])
    running = claimed(ledger).job.id
    (queued,) = (job.id for job in ledger.jobs(elder_id="LXM", status="queued"))
    assert ledger.statuses("LXM") == {running: "running", queued: "queued"}
    assert ledger.statuses("NOBODY") == {}


def test_indexes_follow_a_changed_setting(store: Store) -> None:
    """The store was set up with an hour; a restart with another setting must not fail."""
    for hours in (24, 24, 2):
        ensure_indexes(store, dedup_hours=hours)
    found = store["chat_dedup"].index_information()["forget_after_a_while"]
    assert found["expireAfterSeconds"] == 2 * 3600


def test_members_with_different_settings_may_start_at_once(store: Store) -> None:
    """Each finds the index that the other sets: none may find it gone."""
    ensure_indexes(store, dedup_hours=1)

    def start_again_and_again(hours: int) -> None:
        for _ in range(20):
            ensure_indexes(store, dedup_hours=hours)

    with ThreadPoolExecutor() as pool:
        for member in [pool.submit(start_again_and_again, hours) for hours in (2, 24, 48)]:
            member.result()
    found = store["chat_dedup"].index_information()["forget_after_a_while"]
    assert found["expireAfterSeconds"] in {2 * 3600, 24 * 3600, 48 * 3600}


# -- jobs that make forms -----------------------------------------------------------------------


def elder_model(elder: str = "LXM") -> ElderModel:
    return ElderModel(id=elder, elder_name="李秀梅", current=2)


def test_form_is_asked_for_once_however_many_ask(ledger: Ledger) -> None:
    """A hundred families find at the same time that the host lost their grandmother's model."""
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(ledger.request_form, elder_model(), 2, makes_current=False)
            for _ in range(24)
        ]
        ids = {future.result().id for future in asked}
    assert len(ids) == 1
    (job,) = ledger.jobs()
    assert (job.kind, job.form_version, job.makes_current, job.urgent) == ("form", 2, False, True)
    assert ledger.request_form(elder_model(), 1, makes_current=False).id != job.id
    assert ledger.request_form(elder_model("WDS"), 2, makes_current=False).elder_id == "WDS"


def test_form_that_is_to_answer_is_another_job_than_one_that_only_is_to_be_there(
    ledger: Ledger,
) -> None:
    waiting = ledger.request_form(elder_model(), 2, makes_current=False)
    rollback = ledger.request_form(elder_model(), 2, makes_current=True)
    assert rollback.id != waiting.id
    # Whoever only wants it to be there is served by the rollback, too.
    assert ledger.request_form(elder_model(), 2, makes_current=False).id == rollback.id


def test_form_goes_before_its_elders_trainings_and_before_other_elders(ledger: Ledger) -> None:
    ledger.accept([request(1, "WDS"), request(2)])
    form = ledger.request_form(elder_model(), 2, makes_current=True)
    lease = ledger.claim("w")
    assert lease is not None and lease.job.id == form.id


def test_form_job_tells_of_its_end_as_every_job_does(ledger: Ledger, store: Store) -> None:
    form = ledger.request_form(elder_model(), 2, makes_current=True)
    lease = ledger.claim("w")
    assert lease is not None
    ledger.finish(lease, "succeeded", ready=make_ready(lease.job))
    topics = [event.topic for event in ledger.get(form.id).outbox]
    assert topics == ["train-progress", "train-progress", "model-ready"]


def test_form_that_failed_is_not_tried_again_at_once_and_one_that_was_lost_again_is(
    ledger: Ledger,
) -> None:
    first = ledger.request_form(elder_model(), 2, makes_current=False)
    lease = ledger.claim("w")
    assert lease is not None
    error = ErrorBody(code="artefact_corrupt", message="gone")
    ledger.finish(lease, "failed", error=error)
    assert ledger.request_form(elder_model(), 2, makes_current=False).id == first.id
    other = ledger.request_form(elder_model("WDS"), 1, makes_current=False)
    lease = ledger.claim("w")
    assert lease is not None
    ledger.finish(lease, "succeeded", ready=make_ready(lease.job))
    assert ledger.request_form(elder_model("WDS"), 1, makes_current=False).id != other.id


def test_job_of_a_request_is_found_by_it(ledger: Ledger) -> None:
    assert ledger.requested_form("LXM", "family/7") is None
    job = ledger.request_form(elder_model(), 2, makes_current=True, request="family/7")
    found = ledger.requested_form("LXM", "family/7")
    assert found is not None and found.id == job.id
    assert ledger.requested_form("WDS", "family/7") is None


def test_newer_rollback_cancels_the_one_that_waits(ledger: Ledger) -> None:
    older = ledger.request_form(elder_model(), 1, makes_current=True)
    other = ledger.request_form(elder_model("WDS"), 1, makes_current=True)
    newer = ledger.request_form(elder_model(), 3, makes_current=True)
    states = {job.id: job.status for job in ledger.jobs()}
    assert states == {older.id: "cancelled", other.id: "queued", newer.id: "queued"}
    assert newer.replaces == 2


def test_job_that_is_being_cancelled_answers_no_new_request(ledger: Ledger) -> None:
    first = ledger.request_form(elder_model(), 1, makes_current=True)
    assert ledger.claim("w") is not None
    assert ledger.cancel(first.id).status == "running"
    assert ledger.request_form(elder_model(), 1, makes_current=True).id != first.id


def test_request_that_another_ones_job_answers_finds_that_job_when_it_comes_again(
    ledger: Ledger,
) -> None:
    job = ledger.request_form(elder_model(), 2, makes_current=True, request="family/7")
    ledger.request_form(elder_model(), 2, makes_current=True, request="family/8")
    found = ledger.requested_form("LXM", "family/8")
    assert found is not None and found.id == job.id
