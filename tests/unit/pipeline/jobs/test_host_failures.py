"""Failures of the host: whether the job or the host is to blame, and what is left behind."""

from pathlib import Path

import pytest

from config.settings import HostSettings
from pipeline.hosting.port import ServedModel
from schemas.errors import (
    AdapterMismatch,
    AdapterUnsupported,
    ArtefactCorrupt,
    ChatFormatMismatch,
    ConfigurationError,
    DiskFull,
    HostFailed,
    ModelServerError,
    OllamaFailed,
    OllamaUnavailable,
)
from schemas.hosting import MERGED_GGUF, MergeOutcome
from tests.fakes.hosting import FakeModelHost
from tests.fakes.jobs import make_job
from tests.unit.pipeline.jobs.form_jobs import V1, form_job
from tests.unit.pipeline.jobs.workshop import (
    BASE,
    LATEST,
    TAUGHT,
    Workshop,
    second_job,
)


class FailingHost(FakeModelHost):
    """Fails for some models only, with a message of its own."""

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


def test_host_that_goes_away_between_merge_and_create_is_waited_for(newer: Workshop) -> None:
    newer.host.delete(V1)
    create = newer.host.create

    def be_away(tag: str, definition: ServedModel) -> None:
        raise OllamaUnavailable

    newer.host.create = be_away  # type: ignore[method-assign]
    with pytest.raises(OllamaUnavailable):
        newer.run(form_job(1))
    # A merged file is as large as the base: none is left behind.
    assert not list(newer.folder.rglob(MERGED_GGUF))
    newer.host.create = create  # type: ignore[method-assign]
    assert newer.run(form_job(1, fence=2)).version == 1


def test_host_that_was_upgraded_goes_on_with_the_adapters_that_it_has(shop: Workshop) -> None:
    """Ollama 0.34 serves adapters that 0.32 created, but creates none."""
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
    """Each is as large as the base, so a few of them would fill the disk."""
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
    """A damaged manifest makes every request fail with 500; the job must not wait for ever."""
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
    """Ollama announces that it will stop serving old adapters, but still lists them."""
    shop.run()
    shop.host.forms = ("merged", "plain")
    shop.run(form_job(1, makes_current=False))
    served = shop.host.definition(LATEST)
    assert isinstance(served, ServedModel) and served.form == "merged"
