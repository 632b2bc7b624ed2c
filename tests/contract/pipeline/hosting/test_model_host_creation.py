"""The port: models are created in the forms that a host serves. One suite for fakes and hosts."""

from pathlib import Path

import pytest

from pipeline.storage.files import hash_file
from schemas.errors import ArtefactCorrupt, OllamaRefused
from tests.contract.pipeline.hosting.model_host import OPTIONS, QUESTION, HostUnderTest
from tests.contract.pipeline.hosting.ollama_server import MergedGguf, WriteAdapter


def test_base_is_registered_once_and_listed_with_its_tag(under_test: HostUnderTest) -> None:
    under_test.host.ensure_base(under_test.base, under_test.gguf)
    assert under_test.host.tags().count(f"{under_test.base}:latest") == 1


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
