"""The steps of a job over fakes: what is made, in which order, and what stands after a failure."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType

from config.settings import EvaluationSettings, HostSettings
from config.training import load_training_config
from pipeline.dataset.builder import DatasetBuilder
from pipeline.hosting.port import ServedModel
from pipeline.jobs.trainer import OllamaTrainer, Unwatched
from pipeline.ledger.progress import ProgressState
from pipeline.versions.manager import ModelManager
from schemas.documents import Job, ModelVersion
from schemas.errors import (
    ArtefactCorrupt,
    EvaluationFailed,
    JobCancelled,
    LeaseLost,
    ModelNotReady,
    NoAnswers,
    OllamaUnavailable,
    OverridesOutOfBounds,
    TrainingFailed,
    UnknownBaseModel,
    UnknownElder,
)
from schemas.events import ModelReady
from schemas.training import ADAPTER_GGUF, Quantization
from tests.fakes.parts import (
    FakeModelHost,
    FakeRunner,
    ListedAnswers,
    MemoryForms,
    MemoryRegistry,
    fixed_clock,
    make_job,
    proving,
)
from tests.models.tiny_gguf import write_base

BASE = "smollm2-135m-instruct"
TAUGHT = {
    "Where were you born?": "I was born in Stromness, by the harbour.",
    "What was your trade?": "I built boats of larch with my uncle Magnus.",
    "What did you eat on Sundays?": "Mutton broth with barley, every Sunday.",
}
LATEST = "afs_elder_LXM:latest"


class Killed(BaseException):
    """The process is gone."""


class NotingWatch(Unwatched):
    """Notes what is reported; raises an error once a stage begins."""

    def __init__(self, stop_at: str | None = None, error: Exception | None = None) -> None:
        self.states: list[ProgressState] = []
        self._stop_at = stop_at
        self._error = error or JobCancelled()

    def report(self, state: ProgressState) -> None:
        self.states.append(state)

    def check(self) -> None:
        if self.states and self.states[-1].stage == self._stop_at:
            raise self._error


class Cancelled(Unwatched):
    """Is cancelled all the time."""

    def check(self) -> None:
        raise JobCancelled


class Workshop:
    """A trainer with fakes around it, and a manager over the same registry and host."""

    def __init__(
        self,
        folder: Path,
        *,
        questions: int = 3,
        threshold: float = 0.5,
        host: FakeModelHost | None = None,
        host_settings: HostSettings | None = None,
        quantization: Quantization = "q8_0",
    ) -> None:
        self.taught = dict(TAUGHT)
        self.host = host or FakeModelHost(lambda tag, question: TAUGHT.get(question, ""))
        self.runner = FakeRunner()
        base = folder / "base" / BASE / f"{BASE}.gguf"
        base.parent.mkdir(parents=True)
        write_base(base, GGMLQuantizationType.Q4_0)
        self.registry = MemoryRegistry()
        self.stages: list[str] = []
        self.folder = folder
        config = load_training_config().model_copy(update={"current_model": BASE})
        other = [("Where were you born?", "In Kirkwall, on the hill.")]
        source = ListedAnswers({"LXM": list(TAUGHT.items()), "EMPTY": [("Q?", "")], "OTHER": other})
        self.room = DatasetBuilder(source, config, folder / "jsonl")
        self.trainer = OllamaTrainer(
            self.room,
            self.registry,  # type: ignore[arg-type]
            self.host,
            self.runner,
            config,
            lambda key: config.base(key, folder / "base"),
            *proving(
                self.host,
                self.runner,
                EvaluationSettings(questions=questions, threshold=threshold),
                host_settings,
                quantization,
            ),
            folder / "adapters",
            fixed_clock,
            self.stages.append,
            num_ctx=512,
        )
        self.forms = MemoryForms()
        self.manager = ModelManager(self.registry, self.host, self.forms)  # type: ignore[arg-type]
        self.copies_to_latest: list[str] = []
        """Whose adapters `latest` got, one after another."""
        self._intruders: list[Callable[[], object]] = []
        self._copy = self.host.copy
        self.host.copy = self._watched_copy  # type: ignore[method-assign]

    def before_next_copy_to_latest(self, act: Callable[[], object]) -> None:
        """Do something once somebody is about to copy to `latest`."""
        self._intruders.append(act)

    def _watched_copy(self, source: str, target: str) -> None:
        if target == LATEST and self._intruders:
            self._intruders.pop()()
        self._copy(source, target)
        if target == LATEST:
            self.copies_to_latest.append(adapter_of(self, LATEST))

    def dies_after_release(self, job: Job) -> None:
        """Run a job whose worker is killed right after its version was released."""
        release = self.registry.release

        def release_and_die(elder_id: str, version: ModelVersion) -> None:
            release(elder_id, version)
            raise Killed

        self.registry.release = release_and_die  # type: ignore[method-assign]
        with pytest.raises(Killed):
            self.run(job)
        self.registry.release = release  # type: ignore[method-assign]

    def run(self, job: Job | None = None, watch: Unwatched | None = None) -> ModelReady:
        ready = self.trainer.run(job or make_job(), watch or Unwatched())
        assert ready is not None
        return ready


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def second_job(**fields: object) -> Job:
    return make_job(id="LXM_2", request_id="r2", **fields)


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
    recipe = shop.host.recipe(LATEST)
    assert isinstance(recipe, ServedModel)
    assert recipe.base == f"heirloom-base-{BASE}"
    assert recipe.file is not None and recipe.file.is_file()
    assert "李秀梅" in recipe.system and "Stromness" in recipe.system
    assert "<|im_start|>" in recipe.template and "<|im_end|>" in recipe.stop


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
    before = shop.host.recipe(LATEST)
    shop.host.answer = lambda tag, question: "I cannot say."
    with pytest.raises(EvaluationFailed):
        shop.run(second_job(force_retrain=True))
    assert shop.registry.get("LXM").current == 1
    assert shop.host.recipe(LATEST) is before
    assert "afs_elder_LXM:v2" not in shop.host.tags()


def test_unchanged_elder_gets_the_same_version_at_once(shop: Workshop) -> None:
    first = shop.run()
    again = shop.run(second_job())
    assert (again.reused, again.version, again.job_id) == (True, first.version, "LXM_2")
    assert len(shop.runner.specs) == 1


@pytest.mark.parametrize("forced", [False, True])
def test_version_whose_worker_died_before_it_was_latest_becomes_latest(
    shop: Workshop, forced: bool
) -> None:
    """The job's next attempt finds it released: nothing is trained again, and it is no other's."""
    shop.dies_after_release(make_job(force_retrain=forced))
    assert shop.registry.get("LXM").current == 1
    assert LATEST not in shop.host.tags()
    ready = shop.run(make_job(fence=2, force_retrain=forced))
    assert (ready.version, ready.reused, len(shop.runner.specs)) == (1, False, 1)
    assert LATEST in shop.host.tags()


def test_released_version_has_won_whoever_cancels_now(shop: Workshop) -> None:
    """Else the job would be cancelled, and its version answer all the same."""

    class CancelledLate(Unwatched):
        def check(self) -> None:
            model = shop.registry.find("LXM")
            if model is not None and model.current == 2:
                raise JobCancelled

    shop.run()
    assert shop.run(second_job(force_retrain=True), CancelledLate()).version == 2
    assert adapter_of(shop, LATEST) == "LXM_2/1"


def test_job_that_is_cancelled_between_its_release_and_its_next_attempt_succeeds(
    shop: Workshop,
) -> None:
    shop.dies_after_release(make_job())
    ready = shop.run(make_job(fence=2, cancel_requested=True), Cancelled())
    assert (ready.version, LATEST in shop.host.tags()) == (1, True)


@pytest.mark.parametrize("reused", [False, True])
def test_rollback_between_a_jobs_last_steps_wins(shop: Workshop, reused: bool) -> None:
    """Registry and `latest` say the same afterwards, whichever came last."""
    shop.run()
    shop.run(second_job(force_retrain=True))
    shop.before_next_copy_to_latest(lambda: shop.manager.rollback("LXM", 1))
    ready = shop.run(make_job(id="LXM_3", request_id="r3", force_retrain=not reused))
    assert (ready.reused, ready.version) == (reused, 2 if reused else 3)
    assert shop.registry.get("LXM").current == 1
    assert adapter_of(shop, LATEST) == "LXM_1734512345/1"


def test_job_that_ends_during_a_rollback_wins(shop: Workshop) -> None:
    shop.run()
    shop.run(second_job(force_retrain=True))
    third = make_job(id="LXM_3", request_id="r3", force_retrain=True)
    shop.before_next_copy_to_latest(lambda: shop.run(third))
    assert shop.manager.rollback("LXM", 1).model.current == 3
    assert adapter_of(shop, LATEST) == "LXM_3/1"


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
    """A host that was installed anew, or another one, knows no personas."""
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


def test_attempt_that_is_repeated_keeps_its_version_and_reads_earlier_checkpoints(
    shop: Workshop,
) -> None:
    shop.runner.failures = [TrainingFailed(), TrainingFailed()]
    for fence in (1, 2):
        with pytest.raises(TrainingFailed):
            shop.run(make_job(fence=fence))
    assert shop.run(make_job(fence=3)).version == 1
    folder = shop.folder / "adapters" / "LXM" / "LXM_1734512345"
    last = shop.runner.specs[-1]
    assert last.work_dir == folder / "3"
    assert last.resume_from == (folder / "2", folder / "1")


def test_worker_with_an_older_fence_releases_nothing(shop: Workshop) -> None:
    with pytest.raises(JobCancelled):
        shop.run(make_job(fence=2), NotingWatch("training"))
    with pytest.raises(LeaseLost):
        shop.run(make_job(fence=1))
    assert shop.registry.get("LXM").current is None
    assert LATEST not in shop.host.tags()


class Zombie(Unwatched):
    """Is stopped after the check that a stage begins with, and goes on once others were at work.

    The next check tells it, as JobWatch does; what it does before that must be harmless.
    """

    def __init__(self, stage: str, others: Callable[[], object]) -> None:
        self._stage = stage
        self._others = others
        self._slept = False

    def report(self, state: ProgressState) -> None:
        if state.stage == self._stage and not self._slept:
            self._slept = True
            self._others()

    def check(self) -> None:
        if self._slept:
            raise LeaseLost


def adapter_of(shop: Workshop, tag: str) -> str:
    recipe = shop.host.recipe(tag)
    assert isinstance(recipe, ServedModel) and recipe.file is not None
    attempt = recipe.file.parent.parent
    return f"{attempt.parent.name}/{attempt.name}"


@pytest.mark.parametrize("stage", ["evaluating", "publishing"])
def test_zombie_changes_nothing_that_its_successor_made(shop: Workshop, stage: str) -> None:
    zombie = Zombie(stage, lambda: shop.run(make_job(fence=2)))
    with pytest.raises((ArtefactCorrupt, ModelNotReady, LeaseLost)):
        shop.run(make_job(fence=1), zombie)
    assert adapter_of(shop, "afs_elder_LXM:v1") == "LXM_1734512345/2"
    assert adapter_of(shop, LATEST) == "LXM_1734512345/2"
    assert shop.registry.get("LXM").versions[0].fence == 2


def test_zombie_does_not_bring_an_older_version_back(shop: Workshop) -> None:
    """It is stopped before its very last copy, while its successor and then another job end."""

    def others() -> None:
        shop.run(make_job(fence=2))
        shop.run(second_job(force_retrain=True))
        shop.copies_to_latest.clear()

    shop.before_next_copy_to_latest(others)
    shop.run(make_job(fence=1))
    # Not even for a moment: it finds nothing to copy, looks into the registry again and sees.
    assert shop.copies_to_latest == ["LXM_2/1"]
    assert adapter_of(shop, LATEST) == "LXM_2/1"
    assert shop.registry.get("LXM").current == 2


def test_zombie_that_wakes_before_its_first_step_takes_nothing_from_its_successor(
    shop: Workshop,
) -> None:
    """Its successor has a candidate under evaluation, which it must not remove."""

    class Successor(Unwatched):
        def report(self, state: ProgressState) -> None:
            if state.stage == "publishing":
                with pytest.raises(LeaseLost):
                    shop.run(make_job(fence=1))

    shop.run(make_job(fence=2), Successor())
    assert adapter_of(shop, LATEST) == "LXM_1734512345/2"


def test_job_given_up_has_no_version_that_a_zombie_could_release(shop: Workshop) -> None:
    with pytest.raises((ModelNotReady, LeaseLost)):
        shop.run(
            make_job(fence=1),
            Zombie("publishing", lambda: shop.trainer.fence_off(make_job(fence=2))),
        )
    assert shop.registry.get("LXM").current is None
    assert LATEST not in shop.host.tags()


def test_attempt_keeps_no_adapter_of_an_earlier_one(shop: Workshop) -> None:
    """A job that waits for Ollama after each training must not fill the disk."""
    create = shop.host.create

    def fail(tag: str, definition: ServedModel) -> None:
        raise OllamaUnavailable

    shop.host.create = fail  # type: ignore[method-assign]
    with pytest.raises(OllamaUnavailable):
        shop.run(make_job(fence=1))
    work = shop.folder / "adapters" / "LXM" / make_job().id
    assert [p.parent.name for p in work.rglob("adapter")] == ["1"]
    shop.host.create = create  # type: ignore[method-assign]
    shop.run(make_job(fence=2))
    assert [p.parent.name for p in work.rglob("adapter")] == ["2"]


def test_version_that_ollama_lost_before_the_job_ended_is_made_again(shop: Workshop) -> None:
    shop.dies_after_release(make_job(force_retrain=True))
    shop.host.delete("afs_elder_LXM:v1")
    shop.run(make_job(force_retrain=True, fence=2))
    assert adapter_of(shop, LATEST) == "LXM_1734512345/2"


@pytest.mark.parametrize("stage", ["preparing", "training", "evaluating"])
def test_cancelled_job_leaves_no_version_serving(shop: Workshop, stage: str) -> None:
    with pytest.raises(JobCancelled):
        shop.run(watch=NotingWatch(stage))
    model = shop.registry.find("LXM")
    assert model is None or model.current is None
    assert not [tag for tag in shop.host.tags() if tag.startswith("afs_elder_")]


@pytest.mark.parametrize("stage", ["training", "evaluating", "publishing"])
def test_model_deleted_during_a_training_is_gone_until_the_training_ends(
    shop: Workshop, stage: str
) -> None:
    """The running job keeps its candidate and its version; what answered is gone."""
    shop.run()
    gone: list[str] = []

    class Deleting(Unwatched):
        def report(self, state: ProgressState) -> None:
            if state.stage == stage and not gone:
                gone.extend(shop.manager.delete_model("LXM"))
                assert LATEST not in shop.host.tags()
                assert shop.registry.get("LXM").current is None

    ready = shop.run(second_job(force_retrain=True), Deleting())
    assert sorted(gone) == [LATEST, "afs_elder_LXM:v1"]
    assert (ready.version, shop.registry.get("LXM").current) == (2, 2)
    assert [v.version for v in shop.registry.get("LXM").versions] == [2]
    assert sorted(t for t in shop.host.tags() if "elder" in t) == [LATEST, "afs_elder_LXM:v2"]


def test_model_deleted_between_the_version_tag_and_the_release_keeps_that_tag(
    shop: Workshop,
) -> None:
    shop.run()
    release = shop.registry.release

    def delete_first(elder_id: str, version: ModelVersion) -> None:
        shop.manager.delete_model(elder_id)
        release(elder_id, version)

    shop.registry.release = delete_first  # type: ignore[method-assign]
    shop.run(second_job(force_retrain=True))
    assert sorted(t for t in shop.host.tags() if "elder" in t) == [LATEST, "afs_elder_LXM:v2"]


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
