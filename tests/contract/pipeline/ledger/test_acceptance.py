"""Acceptance: a request is stored once, and job names that clash are numbered."""

from __future__ import annotations

import pytest

from pipeline.ledger.ledger import Ledger
from pipeline.storage.mongo import Store
from schemas.events import ErrorBody
from schemas.identifiers import numbered
from tests.contract.pipeline.ledger.requests import SECONDS, claimed, request, waiting


@pytest.mark.parametrize("together", [True, False])
def test_request_of_another_elder_under_a_known_id_is_a_job_of_its_own(
    ledger: Ledger, together: bool
) -> None:
    """A sender restarted its numbering, and the second elder was never trained."""
    first, second = request(1, "LXM"), request(1, "WEI")
    batches = [[first, second]] if together else [[first], [second]]
    assert sum(ledger.accept(batch) for batch in batches) == 2
    assert ledger.accept([second, first]) == 0, "both come again: redelivery changes nothing"
    assert [len(ledger.jobs(elder_id=e)) for e in ("LXM", "WEI")] == [1, 1]


@pytest.mark.parametrize("batches", [[300], [50] * 6])
def test_many_requests_of_one_second_are_numbered_in_their_order(
    ledger: Ledger, batches: list[int]
) -> None:
    """Each taken name used to cost a query: accepting ten thousand requests never ended."""
    requests = [request(number) for number in range(1, sum(batches) + 1)]
    rest = requests
    for size in batches:
        assert ledger.accept(rest[:size]) == size
        rest = rest[size:]
    assert ledger.accept(requests[-20:]) == 0
    jobs = ledger.jobs(limit=1000)
    ids = [job.id for job in sorted(jobs, key=lambda job: int(job.request_id.split("-")[1]))]
    assert ids == [numbered(ids[0], number) for number in range(1, len(requests) + 1)]


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
    """Claims are update pipelines, in which `$name` would be read as a field."""
    ledger.accept([request(1, name="$status")])
    lease = claimed(ledger, owner="$status")
    assert lease.job.elder_name == "$status"
    assert ledger.get(lease.job.id).owner == "$status"
