"""Queries: jobs are listed by elder and status; the indexes can be set up again and again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pipeline.ledger.ledger import Ledger
from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import Store
from tests.contract.pipeline.ledger.requests import claimed, request


def test_jobs_are_listed_newest_first_and_by_elder_and_status(ledger: Ledger) -> None:
    ledger.accept([request(1), request(2, "ZJG"), request(3)])
    claimed(ledger)
    assert [j.request_id for j in ledger.jobs(elder_id="LXM")] == ["event-3", "event-1"]
    assert [j.request_id for j in ledger.jobs(status="running")] == ["event-1"]
    assert len(ledger.jobs(limit=2)) == 2
    assert (ledger.count("queued"), ledger.count("running")) == (2, 1)


def test_statuses_of_an_elders_jobs_are_listed_by_id(ledger: Ledger) -> None:
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
    """Each changes the index that the others set; none may find it missing."""
    ensure_indexes(store, dedup_hours=1)

    def start_again_and_again(hours: int) -> None:
        for _ in range(20):
            ensure_indexes(store, dedup_hours=hours)

    with ThreadPoolExecutor() as pool:
        for member in [pool.submit(start_again_and_again, hours) for hours in (2, 24, 48)]:
            member.result()
    found = store["chat_dedup"].index_information()["forget_after_a_while"]
    assert found["expireAfterSeconds"] in {2 * 3600, 24 * 3600, 48 * 3600}
