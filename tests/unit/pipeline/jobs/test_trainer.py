"""The trainer's steps: prepare, train, evaluate, release."""

import shutil
from pathlib import Path

import pytest

from pipeline.hosting.port import ServedModel
from schemas.errors import (
    ArtefactCorrupt,
    EvaluationFailed,
    NoAnswers,
    OllamaUnavailable,
    OverridesOutOfBounds,
    UnknownBaseModel,
    UnknownElder,
)
from schemas.training import ADAPTER_GGUF
from tests.fakes.jobs import make_job
from tests.unit.pipeline.jobs.workshop import (
    BASE,
    LATEST,
    NotingWatch,
    Workshop,
    adapter_of,
    second_job,
)


def test_first_training_makes_version_one_and_lets_it_answer(shop: Workshop) -> None:
    ready = shop.run()
    assert (ready.version, ready.tag, ready.model) == (1, "afs_elder_LXM:v1", "afs_elder_LXM")
    assert (ready.reused, ready.previous_version, ready.base_model) == (False, None, BASE)
    assert ready.evaluation is not None
    assert (ready.evaluation.asked, ready.evaluation.right) == (3, 3)
    assert shop.registry.get("LXM").current == 1
    assert {LATEST, "afs_elder_LXM:v1"} <= set(shop.host.tags())


def test_served_model_has_the_adapter_the_prompt_and_the_bases_template(shop: Workshop) -> None:
    shop.run()
    definition = shop.host.definition(LATEST)
    assert isinstance(definition, ServedModel)
    assert definition.base == f"heirloom-base-{BASE}"
    assert definition.file is not None and definition.file.is_file()
    assert "李秀梅" in definition.system and "Stromness" in definition.system
    assert "<|im_start|>" in definition.template and "<|im_end|>" in definition.stop


def test_stages_come_in_order_and_progress_never_goes_back(shop: Workshop) -> None:
    watch = NotingWatch()
    shop.run(watch=watch)
    assert shop.stages == ["preparing", "training", "evaluating", "publishing"]
    percents = [s.progress for s in watch.states]
    assert percents == sorted(percents)


def test_version_answers_only_after_it_was_asked(shop: Workshop) -> None:
    shop.run()
    asked = [i for i, call in enumerate(shop.host.calls) if call[0] == "ask"]
    copied = [i for i, call in enumerate(shop.host.calls) if call[0] == "copy"]
    assert max(asked) < min(copied)
    candidate = "afs_elder_LXM:v1-candidate1"
    assert {tag for tag, _ in shop.host.asked} == {candidate}
    targets = [shop.host.calls[i][2] for i in copied]
    assert shop.host.calls[copied[0]] == ("copy", candidate, "afs_elder_LXM:v1")
    assert targets.index("afs_elder_LXM:v1") < targets.index(LATEST)


def test_candidate_is_gone_afterwards_also_after_a_failure(shop: Workshop) -> None:
    shop.run()
    assert sorted(t for t in shop.host.tags() if "elder" in t) == [LATEST, "afs_elder_LXM:v1"]
    shop.host.answer = lambda tag, question: "no"
    with pytest.raises(EvaluationFailed):
        shop.run(second_job(force_retrain=True))
    assert not [tag for tag in shop.host.tags() if "candidate" in tag]


def test_version_that_does_not_know_stays_out_and_the_previous_one_goes_on(shop: Workshop) -> None:
    shop.run()
    before = shop.host.definition(LATEST)
    shop.host.answer = lambda tag, question: "I cannot say."
    with pytest.raises(EvaluationFailed):
        shop.run(second_job(force_retrain=True))
    assert shop.registry.get("LXM").current == 1
    assert shop.host.definition(LATEST) is before
    assert "afs_elder_LXM:v2" not in shop.host.tags()


def test_unchanged_elder_gets_the_same_version_at_once(shop: Workshop) -> None:
    first = shop.run()
    again = shop.run(second_job())
    assert (again.reused, again.version, again.job_id) == (True, first.version, "LXM_2")
    assert len(shop.runner.specs) == 1


def test_forced_retrain_makes_the_next_version(shop: Workshop) -> None:
    shop.run()
    again = shop.run(second_job(force_retrain=True))
    assert (again.reused, again.version, again.previous_version) == (False, 2, 1)
    assert shop.host.bases_sent == 1


def test_other_parameters_make_another_version(shop: Workshop) -> None:
    shop.run()
    again = shop.run(second_job(overrides={"epochs": 2}))
    assert (again.reused, again.version) == (False, 2)
    assert shop.runner.specs[1].parameters.epochs == 2


def test_version_that_the_host_lost_is_served_again_and_not_trained_anew(shop: Workshop) -> None:
    """A host that was reinstalled or replaced has no personas."""
    shop.run()
    shop.host.delete("afs_elder_LXM:v1")
    ready = shop.run(second_job())
    assert (ready.version, ready.reused, len(shop.runner.specs)) == (1, True, 1)
    assert adapter_of(shop, "afs_elder_LXM:v1") == "LXM_1734512345/1"
    assert adapter_of(shop, LATEST) == "LXM_1734512345/1"
    assert [form.form for form in shop.registry.get("LXM").versions[0].forms] == ["adapter"] * 2


def test_version_that_the_host_lost_without_its_adapter_is_trained_anew(shop: Workshop) -> None:
    shop.run()
    shop.host.delete("afs_elder_LXM:v1")
    shutil.rmtree(shop.folder / "adapters" / "LXM" / make_job().id)
    assert shop.run(second_job()).version == 2


def test_adapter_that_changed_on_the_disk_never_reaches_the_host(shop: Workshop) -> None:
    def spoil(folder: Path) -> None:
        (folder / ADAPTER_GGUF).write_bytes(b"spoilt")

    shop.runner.damages = [spoil]
    with pytest.raises(ArtefactCorrupt):
        shop.run()
    assert shop.host.tags() == []


def test_host_that_is_down_is_told_as_it_is(shop: Workshop) -> None:
    shop.host.is_down = True
    with pytest.raises(OllamaUnavailable):
        shop.run()


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"elder_id": "NOBODY"}, UnknownElder),
        ({"elder_id": "EMPTY"}, NoAnswers),
        ({"base_model": "gpt-17"}, UnknownBaseModel),
        ({"overrides": {"epochs": 0}}, OverridesOutOfBounds),
    ],
)
def test_job_that_cannot_be_prepared_trains_nothing(
    shop: Workshop, fields: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        shop.run(make_job(**fields))
    assert shop.runner.specs == []


def test_without_questions_no_one_is_asked(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, questions=0)
    ready = shop.run()
    assert ready.evaluation is not None
    assert (ready.evaluation.asked, shop.host.asked) == (0, [])


def test_original_interface_trains_without_a_ledger(shop: Workshop) -> None:
    ready = shop.trainer.train("LXM", "李秀梅")
    assert ready.job_id.startswith("LXM_")
    assert ready.version == 1
