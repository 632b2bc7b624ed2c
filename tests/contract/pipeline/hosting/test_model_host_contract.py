"""The port to a model host: fakes, embedded servers and real hosts behave alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from config.settings import OllamaSettings
from embedded.process import free_port
from pipeline.hosting.ollama import OllamaHost
from pipeline.hosting.port import ModelHost
from pipeline.text.chat_format import chat_format
from schemas.errors import ModelNotReady, OllamaUnavailable
from tests.fakes.hosting import FakeModelHost

if TYPE_CHECKING:
    pass
from tests.contract.pipeline.hosting.hosts_under_test import OPTIONS, QUESTION, HostUnderTest


def test_base_is_registered_once_and_listed_with_its_tag(under_test: HostUnderTest) -> None:
    under_test.host.ensure_base(under_test.base, under_test.gguf)
    assert under_test.host.tags().count(f"{under_test.base}:latest") == 1


def test_created_model_is_listed_and_answers(under_test: HostUnderTest) -> None:
    tag = under_test.make("answers")
    assert tag in under_test.host.tags()
    assert under_test.host.tags(tag) == [tag]
    assert tag not in under_test.host.tags(f"{tag}x")
    reply = under_test.host.ask(tag, QUESTION, OPTIONS)
    assert reply.text
    assert reply.prompt_tokens > 0 and reply.completion_tokens > 0


def test_name_is_there_once_it_is_made(under_test: HostUnderTest) -> None:
    """In any case, and `latest` where no tag is given."""
    tag = under_test.make("there")
    assert under_test.host.has(tag) and under_test.host.has(tag.upper())
    assert not under_test.host.has(under_test.name("there"))
    assert under_test.host.has(under_test.base)
    assert not under_test.host.has(under_test.name("nobody"))


def test_created_again_replaces_and_stays_one(under_test: HostUnderTest) -> None:
    tag = under_test.make("again")
    under_test.make("again")
    assert under_test.host.tags().count(tag) == 1


def test_name_folds_case(under_test: HostUnderTest) -> None:
    """Two elders whose ids differ in case alone would share a model."""
    tag = under_test.make("folded")
    assert under_test.host.ask(tag.upper(), QUESTION, OPTIONS).completion_tokens > 0


def test_unknown_name_is_not_ready(under_test: HostUnderTest) -> None:
    unknown = under_test.name("nobody")
    with pytest.raises(ModelNotReady):
        under_test.host.ask(unknown, QUESTION, OPTIONS)
    with pytest.raises(ModelNotReady):
        under_test.host.copy(unknown, under_test.name("target"))
    with pytest.raises(ModelNotReady):
        under_test.host.create(under_test.name("x"), under_test.definition(base=unknown))


def test_copy_serves_and_outlives_its_original(under_test: HostUnderTest) -> None:
    tag = under_test.make("original")
    current = tag.replace(":v1", ":latest")
    under_test.host.copy(tag, current)
    assert under_test.host.delete(tag) is True
    assert tag not in under_test.host.tags()
    assert under_test.host.ask(current, QUESTION, OPTIONS).completion_tokens > 0


def test_copy_replaces_what_had_the_name(under_test: HostUnderTest) -> None:
    first, second = under_test.make("first"), under_test.make("second")
    current = f"{under_test.name('current')}:latest"
    under_test.host.copy(first, current)
    under_test.host.copy(second, current)
    assert under_test.host.tags().count(current) == 1


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


def test_name_without_tag_is_latest(under_test: HostUnderTest) -> None:
    name = under_test.name("untagged")
    under_test.host.copy(under_test.make("tagged"), name)
    assert f"{name}:latest" in under_test.host.tags()
    assert under_test.host.delete(f"{name}:latest") is True


def test_delete_says_whether_there_was_anything(under_test: HostUnderTest) -> None:
    tag = under_test.make("deleted")
    assert under_test.host.delete(tag) is True
    assert under_test.host.delete(tag) is False


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
