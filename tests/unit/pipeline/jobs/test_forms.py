"""Choosing a host's form, and quantized forms."""

from pathlib import Path

import pytest

from config.settings import HostSettings
from pipeline.hosting.port import ServedModel
from pipeline.jobs.forms import choose_form, find_quantizer
from schemas.errors import (
    FormUnsupported,
    QuantizationTooLossy,
)
from schemas.hosting import MERGED_GGUF, Form
from tests.fakes.hosting import FakeModelHost
from tests.unit.pipeline.jobs.workshop import (
    LATEST,
    TAUGHT,
    Workshop,
)


@pytest.mark.parametrize("made", [("adapter", "merged"), ("merged", "plain"), ("shared",)])
def test_host_is_given_the_form_that_it_prefers(shop: Workshop, made: tuple[Form, ...]) -> None:
    shop.host.forms = made
    shop.run()
    served = shop.host.definition(LATEST)
    assert isinstance(served, ServedModel) and served.form == made[0]
    (version,) = shop.registry.get("LXM").versions
    assert (version.form, version.forms[0].sha256) == (made[0], served.sha256)
    assert version.forms[0].size_bytes > 0


def test_merged_model_stands_alone_and_its_file_is_gone_once_the_host_has_it(
    newer: Workshop,
) -> None:
    served = newer.host.definition(LATEST)
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


class ForgetfulHost(FakeModelHost):
    """Once a model was created a second time, it answers `forgets` fewer questions."""

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
    """Otherwise a candidate is loaded with its base's whole window."""
    shop.run()
    assert shop.host.options and {o.get("num_ctx") for o in shop.host.options} == {512}
