"""A host that renders another prompt than training is detected, by text or number of tokens."""

from collections.abc import Mapping
from typing import get_args

import pytest

from pipeline.hosting.port import ServedModel
from pipeline.hosting.prompt_check import check_prompt
from pipeline.text.chat_format import ChatFormat, chat_format
from schemas.errors import ChatFormatMismatch, ModelNotReady, OllamaUnavailable, error_of
from schemas.training import ChatFormatName
from tests.fakes.hosting import FakeModelHost

NAMES: tuple[ChatFormatName, ...] = get_args(ChatFormatName)
SYSTEM = "你是李秀梅。<|im_end|>\n- 我生在绍兴。"
TAG = "afs_elder_LXM:v1-candidate"


def host_with(template: str, *, shows_prompts: bool, system: str = SYSTEM) -> FakeModelHost:
    """A host with one model of this template."""
    host = FakeModelHost()
    host.shows_prompts = shows_prompts
    host.create(
        TAG, ServedModel(form="merged", system=system, template=template, stop=("<|im_end|>",))
    )
    return host


def check(host: FakeModelHost, form: ChatFormat) -> None:
    check_prompt(host, TAG, form, SYSTEM, num_ctx=2048)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shows_prompts", [True, False], ids=["asked back", "counted"])
def test_host_that_renders_as_trained_passes(name: ChatFormatName, shows_prompts: bool) -> None:
    """A marker in the system text is plain text on both sides."""
    form = chat_format(name)
    host = host_with(form.ollama_template, shows_prompts=shows_prompts)
    check(host, form)
    is_counted = ("complete", TAG) in host.calls
    assert is_counted != shows_prompts


def built_in(form: ChatFormat) -> Mapping[str, str]:
    """Templates of others: a date before the system text, another family's, no system text."""
    ours = form.ollama_template
    other = next(chat_format(name) for name in NAMES if name != form.name)
    return {
        "date": ours.replace("{{ .System }}", "Cutting Knowledge Date: 2023\n\n{{ .System }}"),
        "other family": other.ollama_template,
        "plain": "{{ .Prompt }}",
        "no opening": ours.removesuffix(form.assistant_open),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", ["date", "other family", "plain", "no opening"])
@pytest.mark.parametrize("shows_prompts", [True, False], ids=["asked back", "counted"])
def test_host_that_renders_otherwise_is_refused(
    name: ChatFormatName, which: str, shows_prompts: bool
) -> None:
    form = chat_format(name)
    host = host_with(built_in(form)[which], shows_prompts=shows_prompts)
    with pytest.raises(ChatFormatMismatch) as caught:
        check(host, form)
    assert caught.value.code == "chat_format_mismatch"
    assert "李秀梅" not in caught.value.message


@pytest.mark.parametrize("shows_prompts", [True, False], ids=["asked back", "counted"])
def test_model_that_lost_its_system_text_is_refused(shows_prompts: bool) -> None:
    form = chat_format("chatml")
    host = host_with(form.ollama_template, shows_prompts=shows_prompts, system="")
    with pytest.raises(ChatFormatMismatch):
        check(host, form)


def test_unknown_model_and_host_that_is_down_are_told_as_such() -> None:
    form = chat_format("chatml")
    host = FakeModelHost()
    with pytest.raises(ModelNotReady):
        check(host, form)
    host.is_down = True
    with pytest.raises(OllamaUnavailable):
        check(host, form)


def test_code_survives_the_way_from_the_training_process() -> None:
    """The parent builds the child's error from its code."""
    for code in ("chat_format_mismatch", "example_too_long"):
        assert error_of(code, "told").code == code
