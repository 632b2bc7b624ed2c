"""Forms: which one a host is given, made again from the stored adapter, and never by training."""

import shutil
from pathlib import Path

import pytest

from config.settings import HostSettings
from pipeline.hosting.port import ServedModel
from pipeline.jobs.forms import choose_form, find_quantizer
from pipeline.jobs.trainer import Unwatched
from schemas.documents import Job
from schemas.errors import (
    AdapterMismatch,
    AdapterUnsupported,
    ArtefactCorrupt,
    ChatFormatMismatch,
    ConfigurationError,
    DiskFull,
    EvaluationFailed,
    FormUnsupported,
    HostFailed,
    JobCancelled,
    LeaseLost,
    ModelServerError,
    OllamaFailed,
    OllamaUnavailable,
    QuantizationTooLossy,
    UnknownVersion,
)
from schemas.hosting import MERGED_GGUF, Form, MergeOutcome
from tests.fakes.parts import FakeModelHost, make_job
from tests.unit.pipeline.jobs.test_trainer import (
    BASE,
    LATEST,
    TAUGHT,
    Cancelled,
    NotingWatch,
    Workshop,
    second_job,
)

V1, V2 = "afs_elder_LXM:v1", "afs_elder_LXM:v2"


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.fixture
def newer(shop: Workshop) -> Workshop:
    """Two versions, made on a host that merges."""
    shop.host.forms = ("merged", "plain")
    shop.run()
    shop.run(second_job(force_retrain=True))
    return shop


def form_job(version: int, *, makes_current: bool = True, **fields: object) -> Job:
    return make_job(
        id="LXM_9",
        request_source="forms",
        request_id="r9",
        kind="form",
        form_version=version,
        makes_current=makes_current,
        **fields,
    )


# -- which form ---------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [("adapter", "merged"), ("merged", "plain"), ("shared",)])
def test_host_is_given_the_form_that_it_prefers(shop: Workshop, made: tuple[Form, ...]) -> None:
    shop.host.forms = made
    shop.run()
    served = shop.host.recipe(LATEST)
    assert isinstance(served, ServedModel) and served.form == made[0]
    (version,) = shop.registry.get("LXM").versions
    assert (version.form, version.forms[0].sha256) == (made[0], served.sha256)
    assert version.forms[0].size_bytes > 0


def test_merged_model_stands_alone_and_its_file_is_gone_once_the_host_has_it(
    newer: Workshop,
) -> None:
    served = newer.host.recipe(LATEST)
    assert isinstance(served, ServedModel) and served.file is not None
    assert (served.base, served.file.name) == (None, MERGED_GGUF)
    assert not list(newer.folder.rglob(MERGED_GGUF))
    assert newer.host.bases_sent == 0


def test_form_that_is_set_goes_before_the_hosts_own() -> None:
    host = FakeModelHost()
    assert choose_form(host, HostSettings(form="merged"), host.describe()) == "merged"


def test_form_that_the_host_refuses_is_told_with_its_own_sentence() -> None:
    host = FakeModelHost()
    host.forms = ("merged", "plain")
    with pytest.raises(FormUnsupported, match=r"adapters are no longer supported.*merged"):
        choose_form(host, HostSettings(form="adapter"), host.describe())


def test_form_that_the_host_refuses_ends_a_job_before_its_training(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, host_settings=HostSettings(form="shared"))
    with pytest.raises(FormUnsupported):
        shop.run()
    assert not shop.runner.specs
    assert shop.registry.find("LXM") is None


def test_quantiser_that_is_missing_ends_a_job_before_its_training(tmp_path: Path) -> None:
    settings = HostSettings(form="merged", quantizer="no-such-program")
    shop = Workshop(tmp_path, host_settings=settings, quantization="q4_k_m")
    with pytest.raises(FormUnsupported, match="MODELSERVER_HOST__QUANTIZER"):
        shop.run()
    assert not shop.runner.specs


def test_quantiser_is_found_by_its_path(tmp_path: Path) -> None:
    program = tmp_path / "llama-quantize"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_quantizer(HostSettings(quantizer=str(program))) == program


# -- made again ---------------------------------------------------------------------------------


def test_rollback_to_a_version_whose_form_is_gone_asks_for_a_job(newer: Workshop) -> None:
    newer.host.delete(V1)
    done = newer.manager.rollback("LXM", request="family/7")
    (job,) = newer.forms.jobs.values()
    assert (done.job_id, job.form_version, job.makes_current) == (job.id, 1, True)
    # Until the job has ended the old version answers.
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
    before = newer.host.recipe(V1)
    newer.host.delete(V1)
    watch = NotingWatch()
    ready = newer.run(form_job(1), watch)
    assert (ready.version, ready.reused, len(newer.runner.specs)) == (1, True, 2)
    assert newer.registry.get("LXM").current == 1
    made = newer.host.recipe(LATEST)
    assert isinstance(made, ServedModel) and isinstance(before, ServedModel)
    assert (made.sha256, made.system) == (before.sha256, before.system)
    stages = [state.stage for state in watch.states]
    assert list(dict.fromkeys(stages)) == ["converting", "evaluating", "publishing"]
    assert not [tag for tag in newer.host.tags() if "candidate" in tag]


def test_form_for_another_host_is_another_form(newer: Workshop) -> None:
    """Personas that Ollama 0.34 had merged move to llama-server, and back to an old Ollama."""
    for forms in (("shared",), ("adapter", "merged")):
        newer.host.forms = forms
        newer.host.delete(V2)
        newer.run(form_job(2, makes_current=False, fence=1 + len(forms)))
        served = newer.host.recipe(LATEST)
        assert isinstance(served, ServedModel) and served.form == forms[0]
    version = newer.registry.get("LXM").version(2)
    assert version is not None
    assert [form.form for form in version.forms] == ["merged", "shared", "adapter"]


def test_form_job_leaves_what_answers_unless_it_is_asked_to(newer: Workshop) -> None:
    newer.host.delete(V1)
    # It answers nobody, so nobody is told that it does.
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
    """A worker that was held up in it must not roll back what was cancelled meanwhile."""
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
    """The family changed its mind while the first version's form was made."""
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


# -- whose fault it is --------------------------------------------------------------------------


class FailingHost(FakeModelHost):
    """Fails at some models alone, with a sentence of its own."""

    def __init__(self, *broken: str) -> None:
        super().__init__(lambda tag, question: TAUGHT.get(question, ""))
        self.broken = broken

    def ask(self, tag: str, messages, options):  # type: ignore[no-untyped-def]  # as the port's
        if any(word in tag for word in self.broken):
            self._enter("ask", tag)
            raise OllamaFailed("Ollama failed (500): unable to load model")
        return super().ask(tag, messages, options)


def test_host_that_fails_at_one_model_alone_is_the_jobs_failure(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, host=FailingHost("candidate"))
    shop.host.ensure_base("another", Path("x"))
    with pytest.raises(HostFailed, match="unable to load model"):
        shop.run()


def test_host_that_fails_at_every_model_is_waited_for(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, host=FailingHost("candidate", "another", "base"))
    shop.host.ensure_base("another", Path("x"))
    with pytest.raises(OllamaFailed):
        shop.run()


def test_host_that_went_away_meanwhile_is_waited_for(tmp_path: Path) -> None:
    host = FailingHost("candidate")
    shop = Workshop(tmp_path, host=host)
    describe = host.describe

    def describe_or_be_away():  # type: ignore[no-untyped-def]  # as the port's
        if ("ask", "afs_elder_LXM:v1-candidate1") in host.calls:
            raise OllamaUnavailable
        return describe()

    host.describe = describe_or_be_away  # type: ignore[method-assign]
    with pytest.raises(OllamaFailed):
        shop.run()


# -- quantised ----------------------------------------------------------------------------------


class ForgetfulHost(FakeModelHost):
    """Once the model was made anew under its name, it answers so many questions less."""

    def __init__(self, forgets: int) -> None:
        super().__init__(self._say)
        self._forgets = forgets

    def _say(self, tag: str, question: str) -> str:
        made = sum(call == ("create", tag) for call in self.calls)
        forgotten = list(TAUGHT)[: self._forgets] if made > 1 else []
        return "" if question in forgotten else TAUGHT.get(question, "")


@pytest.fixture
def quantizer(tmp_path: Path) -> HostSettings:
    program = tmp_path / "llama-quantize"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return HostSettings(form="merged", quantizer=str(program))


def test_quantised_form_that_forgot_one_answer_serves(
    tmp_path: Path, quantizer: HostSettings
) -> None:
    shop = Workshop(tmp_path, host=ForgetfulHost(1), host_settings=quantizer, quantization="q4_k_m")
    ready = shop.run()
    assert ready.evaluation is not None and ready.evaluation.right == 2
    assert [m.quantization for m in shop.runner.merges] == ["q8_0", "q4_k_m"]
    assert shop.registry.get("LXM").versions[0].forms[0].quantization == "q4_k_m"


def test_quantised_form_that_forgot_more_is_refused(
    tmp_path: Path, quantizer: HostSettings
) -> None:
    shop = Workshop(tmp_path, host=ForgetfulHost(2), host_settings=quantizer, quantization="q4_k_m")
    with pytest.raises(QuantizationTooLossy, match=r"1 of 3.*3"):
        shop.run()
    assert shop.registry.get("LXM").current is None


def test_default_is_not_quantised_further(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, host_settings=HostSettings(form="merged"))
    shop.run()
    assert [m.quantization for m in shop.runner.merges] == ["q8_0"]


def test_every_question_names_the_chats_window(shop: Workshop) -> None:
    """Without it a candidate is loaded with the whole window that its base was made for."""
    shop.run()
    assert shop.host.options and {o.get("num_ctx") for o in shop.host.options} == {512}


# -- what goes wrong on the way -----------------------------------------------------------------


def test_host_that_goes_away_between_merge_and_create_is_waited_for(newer: Workshop) -> None:
    newer.host.delete(V1)
    create = newer.host.create

    def be_away(tag: str, definition: ServedModel) -> None:
        raise OllamaUnavailable

    newer.host.create = be_away  # type: ignore[method-assign]
    with pytest.raises(OllamaUnavailable):
        newer.run(form_job(1))
    # A merged file may be as large as all adapters together: none is left lying about.
    assert not list(newer.folder.rglob(MERGED_GGUF))
    newer.host.create = create  # type: ignore[method-assign]
    assert newer.run(form_job(1, fence=2)).version == 1


def test_host_that_was_upgraded_goes_on_with_the_adapters_that_it_has(shop: Workshop) -> None:
    """Ollama 0.34 serves what 0.32 made, and makes no more of them."""
    shop.run()
    shop.host.forms = ("merged", "plain")
    shop.run(second_job(force_retrain=True))
    versions = shop.registry.get("LXM").versions
    assert {v.version: v.form for v in versions} == {1: "adapter", 2: "merged"}
    done = shop.manager.rollback("LXM")
    assert (done.job_id, done.model.current) == (None, 1)


@pytest.mark.parametrize("error", [DiskFull(), AdapterMismatch()])
def test_merge_that_fails_leaves_no_candidate_and_no_version(
    tmp_path: Path, error: ModelServerError
) -> None:
    shop = Workshop(tmp_path, host_settings=HostSettings(form="merged"))
    shop.runner.merge_failures = [error]
    with pytest.raises(type(error)):
        shop.run()
    assert shop.registry.get("LXM").current is None
    assert not [tag for tag in shop.host.tags() if "elder" in tag]
    assert shop.run(make_job(fence=2)).version == 1


def test_merged_file_whose_bit_is_flipped_reaches_no_host(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, host_settings=HostSettings(form="merged"))
    merge = shop.runner.merge

    def merge_and_damage(*args: object) -> MergeOutcome:
        outcome = merge(*args)  # type: ignore[arg-type]
        content = bytearray(outcome.path.read_bytes())
        content[0] ^= 1
        outcome.path.write_bytes(content)
        return outcome

    shop.runner.merge = merge_and_damage  # type: ignore[assignment, method-assign]
    with pytest.raises(ArtefactCorrupt):
        shop.run()
    assert "create" not in {call[0] for call in shop.host.calls}


def test_host_that_renders_another_prompt_ends_the_job_under_a_code_of_its_own(
    tmp_path: Path,
) -> None:
    class OtherTemplate(FakeModelHost):
        def render(self, tag: str, messages, options):  # type: ignore[no-untyped-def]  # as the port's
            return "Cutting Knowledge Date: December 2023"

    shop = Workshop(tmp_path, host=OtherTemplate())
    with pytest.raises(ChatFormatMismatch):
        shop.run()
    assert shop.registry.get("LXM").current is None


def test_unknown_architecture_ends_a_job_before_its_training(shop: Workshop) -> None:
    base = shop.folder / "base" / BASE / f"{BASE}.gguf"
    base.write_bytes(base.read_bytes().replace(b"llama", b"mamba"))
    with pytest.raises(AdapterUnsupported):
        shop.run()
    assert not shop.runner.specs


def test_base_without_its_gguf_ends_a_job_before_its_training(shop: Workshop) -> None:
    (shop.folder / "base" / BASE / f"{BASE}.gguf").unlink()
    with pytest.raises(ConfigurationError, match="MODELSERVER_MODEL_DIR"):
        shop.run()
    assert not shop.runner.specs


def test_what_killed_merges_left_is_gone_before_the_next_one(tmp_path: Path) -> None:
    """Each is as large as the base: a few of them would fill the disk that the job waits for."""
    shop = Workshop(tmp_path, host_settings=HostSettings(form="merged"))
    folder = tmp_path / "adapters" / "LXM" / make_job().id
    left = [
        folder / "1" / ".partial-merged-abcdefgh.modelserver" / MERGED_GGUF,
        folder / "2" / "merged" / MERGED_GGUF,
    ]
    for file in left:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"of a merge that was killed")
    shop.run(make_job(fence=3))
    assert not [file for file in left if file.exists()]


@pytest.mark.parametrize("call", ["has", "copy", "delete"])
def test_host_that_fails_at_one_elder_alone_ends_a_job_whatever_it_is_asked(
    newer: Workshop, call: str
) -> None:
    """A damaged manifest answers 500 to everything: that was waited for without end."""
    newer.host.ensure_base("another", Path("x"))
    newer.host.delete(V1)

    def fail(*args: object) -> object:
        raise OllamaFailed("Ollama failed (500): manifest is damaged")

    setattr(newer.host, call, fail)
    with pytest.raises(HostFailed, match="manifest is damaged"):
        newer.run(form_job(1))


def test_adapter_that_an_upgraded_host_serves_no_more_is_made_anew_when_asked_for(
    shop: Workshop,
) -> None:
    """Ollama says that serving old adapters will end; its name is there all the same."""
    shop.run()
    shop.host.forms = ("merged", "plain")
    shop.run(form_job(1, makes_current=False))
    served = shop.host.recipe(LATEST)
    assert isinstance(served, ServedModel) and served.form == "merged"
