"""The port to the model host: one suite on the fakes, the embedded servers and a real host.

The unit tests rest on the fakes; they may do nothing that the others do not do too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from config.settings import OllamaSettings
from embedded.process import free_port
from embedded.stack import OllamaServer
from pipeline.hosting.ollama import OllamaHost
from pipeline.hosting.port import ModelHost, ServedModel
from pipeline.storage.files import hash_file
from pipeline.text.chat_format import chat_format
from schemas.errors import ArtefactCorrupt, ModelNotReady, OllamaRefused, OllamaUnavailable
from schemas.hosting import Form
from tests.contract.pipeline.hosting.versions import EMBEDDED
from tests.fakes.parts import FakeModelHost

if TYPE_CHECKING:
    from tests.contract.conftest import MergedGguf, WriteAdapter

QUESTION = [{"role": "user", "content": "Who taught you to swim?"}]
OPTIONS: dict[str, float | int | list[str]] = {"temperature": 0, "num_predict": 4, "num_ctx": 512}


class HostUnderTest:
    """A host, a registered base, and names of this run."""

    def __init__(self, host: ModelHost, run: str, gguf: Path) -> None:
        self.host = host
        self.forms = host.describe().forms
        self._run = run
        self.gguf = gguf
        self.base = self.name("base")
        host.ensure_base(self.base, gguf)

    def name(self, suffix: str) -> str:
        """A name of this run; the model is removed at the end."""
        return f"{self._run}-{suffix}"

    def definition(self, file: Path | None = None, base: str | None = None) -> ServedModel:
        """A model without a persona, or one of the preferred form, made from `file`."""
        form: Form = "plain" if file is None else self.forms[0]
        return self.definition_of(form, file, base)

    def definition_of(
        self, form: Form, file: Path | None = None, base: str | None = None
    ) -> ServedModel:
        return ServedModel(
            form=form,
            base=None if form == "merged" else base or self.base,
            file=file,
            system="You are old.",
            template=chat_format("chatml").ollama_template,
            stop=("<|im_end|>",),
        )

    def make(self, suffix: str) -> str:
        tag = f"{self.name(suffix)}:v1"
        self.host.create(tag, self.definition())
        return tag


FAKES = {"fake-0.34": "0.34.4", "fake-0.32": "0.32.15", "fake-shared": "0.34.4+llama-server"}


@pytest.fixture(scope="module", params=[*FAKES, *EMBEDDED, "real"])
def under_test(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, base_gguf: Path
) -> Iterator[HostUnderTest]:
    """The fake and the embedded server as each kind of host, and the real one of OLLAMA_HOST."""
    run = f"port-{uuid4().hex[:8]}"
    if request.param in FAKES:
        fake = FakeModelHost(lambda tag, question: f"{tag} heard {question}", FAKES[request.param])
        yield HostUnderTest(fake, run, base_gguf)
        return
    with ExitStack() as stack:
        if request.param in EMBEDDED:
            embedded = OllamaServer(tmp_path_factory.mktemp("host"), EMBEDDED[request.param])
            stack.enter_context(embedded.process)
            address = embedded.host
        else:
            address = os.environ.get("OLLAMA_HOST", "")
            if not address:
                pytest.skip("OLLAMA_HOST names no real host to run the contract on")
        host = OllamaHost(OllamaSettings(host=address))
        yield HostUnderTest(host, run, base_gguf)
        for tag in host.tags(run):
            host.delete(tag)
        host.close()


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


@pytest.fixture(scope="module")
def persona_file(
    under_test: HostUnderTest,
    write_adapter: WriteAdapter,
    merged_gguf: MergedGguf,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What the preferred form is made from: an adapter, or a merged model."""
    if under_test.forms[0] == "merged":
        return merged_gguf(1)
    adapter = tmp_path_factory.mktemp("adapter") / "adapter.gguf"
    write_adapter(adapter, 7)
    return adapter


def test_host_says_what_it_is(under_test: HostUnderTest) -> None:
    """Every Ollama makes merged models; adapters, the old ones; our own role shares a base."""
    told = under_test.host.describe()
    assert told.version[0].isdigit()
    if told.kind == "llama-server":
        assert told.forms == ("shared", "plain")
    else:
        assert told.forms in (("adapter", "merged", "plain"), ("merged", "plain"))


def test_persona_is_made_in_the_preferred_form(
    under_test: HostUnderTest, persona_file: Path
) -> None:
    tag = f"{under_test.name('persona')}:v1"
    under_test.host.create(tag, under_test.definition(persona_file))
    assert under_test.host.ask(tag, QUESTION, OPTIONS).completion_tokens > 0


def test_merged_persona_is_made_on_every_ollama(
    under_test: HostUnderTest, merged_gguf: MergedGguf
) -> None:
    if "merged" not in under_test.forms:
        pytest.skip("our own role is given adapters alone")
    tag = f"{under_test.name('merged')}:v1"
    under_test.host.create(tag, under_test.definition_of("merged", merged_gguf(1)))
    assert under_test.host.ask(tag, QUESTION, OPTIONS).completion_tokens > 0


def test_adapter_is_taken_or_refused(
    under_test: HostUnderTest, write_adapter: WriteAdapter, tmp_path: Path
) -> None:
    """A refusal, and no outage that would be waited for."""
    adapter = tmp_path / "adapter.gguf"
    write_adapter(adapter, 7)
    tag = f"{under_test.name('other')}:v1"
    takes_adapters = under_test.forms[0] in ("adapter", "shared")
    form = under_test.forms[0] if takes_adapters else "adapter"
    definition = under_test.definition_of(form, adapter)
    if takes_adapters:
        under_test.host.create(tag, definition)
    else:
        with pytest.raises(OllamaRefused, match="400"):
            under_test.host.create(tag, definition)
    assert under_test.host.has(tag) is takes_adapters
    assert (under_test.host.refusal_of(form) is None) is takes_adapters


def test_name_is_there_once_it_is_made(under_test: HostUnderTest) -> None:
    """In any case, and `latest` where no tag is given."""
    tag = under_test.make("there")
    assert under_test.host.has(tag) and under_test.host.has(tag.upper())
    assert not under_test.host.has(under_test.name("there"))
    assert under_test.host.has(under_test.base)
    assert not under_test.host.has(under_test.name("nobody"))


def test_file_that_is_gone_makes_no_model(under_test: HostUnderTest, tmp_path: Path) -> None:
    tag = f"{under_test.name('gone')}:v1"
    with pytest.raises(ArtefactCorrupt):
        under_test.host.create(tag, under_test.definition(tmp_path / "none.gguf"))
    assert tag not in under_test.host.tags()


def test_file_with_another_hash_than_recorded_makes_no_model(
    under_test: HostUnderTest, persona_file: Path
) -> None:
    tag = f"{under_test.name('changed')}:v1"
    definition = under_test.definition(persona_file)
    with pytest.raises(ArtefactCorrupt):
        under_test.host.create(tag, definition.model_copy(update={"sha256": "0" * 64}))
    assert tag not in under_test.host.tags()
    known = hash_file(persona_file)
    under_test.host.create(tag, definition.model_copy(update={"sha256": known}))
    assert tag in under_test.host.tags()


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
