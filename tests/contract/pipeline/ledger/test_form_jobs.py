"""Jobs that make a version's form again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pipeline.ledger.ledger import Ledger
from pipeline.storage.mongo import Store
from schemas.documents import ElderModel
from schemas.events import ErrorBody
from tests.contract.pipeline.ledger.requests import request
from tests.fakes.jobs import make_ready


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
