"""Form jobs: a version's form is made again from its stored adapter."""

import shutil

import pytest

from pipeline.hosting.port import ServedModel
from pipeline.jobs.job_progress import Unwatched
from schemas.errors import (
    ArtefactCorrupt,
    EvaluationFailed,
    JobCancelled,
    LeaseLost,
    UnknownVersion,
)
from tests.fakes.jobs import make_job
from tests.unit.pipeline.jobs.form_jobs import V1, V2, form_job
from tests.unit.pipeline.jobs.workshop import (
    LATEST,
    Cancelled,
    NotingWatch,
    Workshop,
)


def test_rollback_to_a_version_whose_form_is_gone_asks_for_a_job(newer: Workshop) -> None:
    newer.host.delete(V1)
    done = newer.manager.rollback("LXM", request="family/7")
    (job,) = newer.forms.jobs.values()
    assert (done.job_id, job.form_version, job.makes_current) == (job.id, 1, True)
    # Until the job has ended, the present version stays current.
    assert done.model.current == 2
    assert newer.registry.get("LXM").current == 2


def test_rollback_command_that_comes_again_names_the_same_job(newer: Workshop) -> None:
    newer.host.delete(V1)
    first = newer.manager.rollback("LXM", request="family/7")
    newer.run(form_job(1))
    again = newer.manager.rollback("LXM", request="family/7")
    assert (again.job_id, len(newer.forms.jobs)) == (first.job_id, 1)
    assert newer.registry.get("LXM").current == 1


def test_form_is_made_again_from_the_stored_adapter_and_then_answers(newer: Workshop) -> None:
    before = newer.host.definition(V1)
    newer.host.delete(V1)
    watch = NotingWatch()
    ready = newer.run(form_job(1), watch)
    assert (ready.version, ready.reused, len(newer.runner.specs)) == (1, True, 2)
    assert newer.registry.get("LXM").current == 1
    made = newer.host.definition(LATEST)
    assert isinstance(made, ServedModel) and isinstance(before, ServedModel)
    assert (made.sha256, made.system) == (before.sha256, before.system)
    stages = [state.stage for state in watch.states]
    assert list(dict.fromkeys(stages)) == ["converting", "evaluating", "publishing"]
    assert not [tag for tag in newer.host.tags() if "candidate" in tag]


def test_form_for_another_host_is_another_form(newer: Workshop) -> None:
    """Merged personas of Ollama 0.34 move to llama-server, and back to an old Ollama."""
    for forms in (("shared",), ("adapter", "merged")):
        newer.host.forms = forms
        newer.host.delete(V2)
        newer.run(form_job(2, makes_current=False, fence=1 + len(forms)))
        served = newer.host.definition(LATEST)
        assert isinstance(served, ServedModel) and served.form == forms[0]
    version = newer.registry.get("LXM").version(2)
    assert version is not None
    assert [form.form for form in version.forms] == ["merged", "shared", "adapter"]


def test_form_job_leaves_what_answers_unless_it_is_asked_to(newer: Workshop) -> None:
    newer.host.delete(V1)
    # The version is not current, so no model-ready is sent.
    assert newer.trainer.run(form_job(1, makes_current=False), Unwatched()) is None
    assert newer.registry.get("LXM").current == 2
    assert newer.host.has(V1)


def test_form_that_is_there_is_not_made_again(newer: Workshop) -> None:
    calls = len(newer.host.calls)
    newer.run(form_job(1))
    assert "create" not in {call[0] for call in newer.host.calls[calls:]}
    assert newer.registry.get("LXM").current == 1


def test_form_that_forgot_what_was_taught_does_not_answer(newer: Workshop) -> None:
    newer.host.delete(V1)
    newer.host.answer = lambda tag, question: "no"
    with pytest.raises(EvaluationFailed):
        newer.run(form_job(1))
    assert newer.registry.get("LXM").current == 2
    assert not newer.host.has(V1)


def test_form_without_its_adapter_says_what_to_do(newer: Workshop) -> None:
    newer.host.delete(V1)
    shutil.rmtree(newer.folder / "adapters" / "LXM" / make_job().id)
    with pytest.raises(ArtefactCorrupt, match="train again"):
        newer.run(form_job(1))
    assert newer.registry.get("LXM").current == 2


def test_form_of_a_version_that_is_gone_is_refused(newer: Workshop) -> None:
    with pytest.raises(UnknownVersion):
        newer.run(form_job(7))


def test_form_job_that_was_given_up_lets_nothing_answer(newer: Workshop) -> None:
    """A worker that was suspended in it must not carry out a rollback that was cancelled."""
    assert newer.trainer.fence_off(form_job(1, fence=2)) is None
    with pytest.raises(JobCancelled):
        newer.run(form_job(1))
    assert newer.registry.get("LXM").current == 2


def test_form_job_that_has_done_its_work_can_no_longer_be_given_up(newer: Workshop) -> None:
    newer.run(form_job(1))
    version = newer.trainer.fence_off(form_job(1, fence=2))
    assert version is not None and version.version == 1


def test_form_job_that_is_done_again_changes_nothing_that_came_later(newer: Workshop) -> None:
    newer.run(form_job(1))
    newer.manager.rollback("LXM", 2)
    assert newer.trainer.run(form_job(1, fence=2), Unwatched()) is None
    assert newer.registry.get("LXM").current == 2


def test_newer_rollback_wins_over_one_whose_form_is_still_made(newer: Workshop) -> None:
    """The family changed its mind while the first version's form was being made."""
    newer.run(make_job(id="LXM_3", request_id="r3", force_retrain=True))
    newer.host.delete(V1)
    form = form_job(1, replaces=3)
    newer.manager.rollback("LXM", 2)
    with pytest.raises(JobCancelled, match="version 2"):
        newer.run(form)
    assert newer.registry.get("LXM").current == 2


def test_training_that_ended_while_a_form_was_made_goes_on_answering(newer: Workshop) -> None:
    newer.host.delete(V1)
    form = form_job(1, replaces=2)
    newer.run(make_job(id="LXM_3", request_id="r3", force_retrain=True))
    with pytest.raises(JobCancelled, match="version 3"):
        newer.run(form)
    assert newer.registry.get("LXM").current == 3


def test_cancelled_form_job_makes_nothing(newer: Workshop) -> None:
    newer.host.delete(V1)
    with pytest.raises(JobCancelled):
        newer.run(form_job(1), Cancelled())
    assert newer.registry.get("LXM").current == 2
    assert not newer.host.has(V1)


def test_worker_that_lost_its_lease_makes_no_candidate(newer: Workshop) -> None:
    newer.host.delete(V1)
    with pytest.raises(LeaseLost):
        newer.run(form_job(1), NotingWatch("converting", LeaseLost()))
    assert not newer.host.has(V1)
    assert newer.registry.get("LXM").current == 2
