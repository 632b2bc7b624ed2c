"""The port: answers, prompts and unreachable hosts. One suite for fakes and hosts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from config.settings import OllamaSettings
from embedded.process import free_port
from pipeline.hosting.ollama import OllamaHost
from pipeline.hosting.port import ModelHost
from pipeline.text.chat_format import chat_format
from schemas.errors import ModelNotReady, OllamaUnavailable
from tests.contract.pipeline.hosting.model_host import OPTIONS, QUESTION, HostUnderTest
from tests.fakes.hosting import FakeModelHost


def test_created_model_is_listed_and_answers(under_test: HostUnderTest) -> None:
    tag = under_test.make("answers")
    assert tag in under_test.host.tags()
    assert under_test.host.tags(tag) == [tag]
    assert tag not in under_test.host.tags(f"{tag}x")
    reply = under_test.host.ask(tag, QUESTION, OPTIONS)
    assert reply.text
    assert reply.prompt_tokens > 0 and reply.completion_tokens > 0


def test_unknown_name_is_not_ready(under_test: HostUnderTest) -> None:
    unknown = under_test.name("nobody")
    with pytest.raises(ModelNotReady):
        under_test.host.ask(unknown, QUESTION, OPTIONS)
    with pytest.raises(ModelNotReady):
        under_test.host.copy(unknown, under_test.name("target"))
    with pytest.raises(ModelNotReady):
        under_test.host.create(under_test.name("x"), under_test.definition(base=unknown))


def test_prompt_is_rendered_with_the_models_own_system_text(under_test: HostUnderTest) -> None:
    """Where a host cannot say, its prompt has as many tokens as our rendering."""
    tag, form = under_test.make("rendered"), chat_format("chatml")
    turns = [*QUESTION, {"role": "assistant", "content": "我哥哥。"}, *QUESTION]
    ours = form.render(
        [{"role": "system", "content": "You are old."}, *turns], add_generation_prompt=True
    )
    assert under_test.host.render(tag, turns, OPTIONS) in (ours, None)
    asked = under_test.host.ask(tag, turns, OPTIONS).prompt_tokens
    assert under_test.host.complete(tag, ours, OPTIONS).prompt_tokens == asked
    assert under_test.host.complete(tag, f"{ours}I went", OPTIONS).prompt_tokens > asked


def test_unknown_model_renders_and_completes_nothing(under_test: HostUnderTest) -> None:
    unknown = f"{under_test.name('none')}:v1"
    calls: list[Callable[[], object]] = [
        lambda: under_test.host.render(unknown, QUESTION, OPTIONS),
        lambda: under_test.host.complete(unknown, "Hello", OPTIONS),
    ]
    for call in calls:
        with pytest.raises(ModelNotReady):
            call()


def test_host_that_is_there_passes_its_check(under_test: HostUnderTest) -> None:
    under_test.host.check()


@pytest.mark.parametrize("kind", ["fake", "ollama"])
def test_host_that_is_down_is_not_available(kind: str) -> None:
    host: ModelHost
    if kind == "fake":
        host = FakeModelHost()
        host.is_down = True
    else:
        host = OllamaHost(OllamaSettings(host=f"http://127.0.0.1:{free_port()}"))
    calls: list[Callable[[], object]] = [
        host.tags,
        host.check,
        host.describe,
        lambda: host.has("x"),
        lambda: host.delete("x"),
        lambda: host.copy("x", "y"),
        lambda: host.ask("x", QUESTION, OPTIONS),
        lambda: host.render("x", QUESTION, OPTIONS),
        lambda: host.complete("x", "Hello", OPTIONS),
        lambda: host.ensure_base("x", Path(__file__)),
    ]
    for call in calls:
        with pytest.raises(OllamaUnavailable):
            call()
    if isinstance(host, OllamaHost):
        host.close()
