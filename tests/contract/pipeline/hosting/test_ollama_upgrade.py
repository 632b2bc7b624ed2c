"""An upgrade from an Ollama that accepts adapters to one that refuses them keeps the models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import ollama
import pytest

from embedded.stack import OllamaServer

if TYPE_CHECKING:
    from tests.contract.pipeline.hosting.ollama_server import RefusalOf, WriteAdapter

TEMPLATE = "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n{{ .Response }}"
OPTIONS = {"temperature": 0, "num_predict": 3, "num_ctx": 512}


def ask(client: ollama.Client, model: str) -> str:
    """Return what a model says to the one question."""
    question = [{"role": "user", "content": "Who taught you to swim?"}]
    return client.chat(model, question, options=OPTIONS).message.content or ""


@pytest.fixture
def persona_folder(tmp_path: Path, base_gguf: Path, write_adapter: WriteAdapter) -> Path:
    """A folder written by 0.32 with a base and a persona, and the answers of both."""
    adapter = tmp_path / "adapter.gguf"
    write_adapter(adapter, 1)
    old = OllamaServer(tmp_path, "ollama-0.32")
    with old.process:
        client = ollama.Client(old.host)
        files = {"base.gguf": client.create_blob(base_gguf)}
        client.create("base", files=files, template=TEMPLATE, stream=False)
        adapters = {"a.gguf": client.create_blob(adapter)}
        client.create("anna", from_="base", adapters=adapters, stream=False)
        for name in ("base", "anna"):
            (tmp_path / name).write_text(ask(client, name))
        client.close()  # type: ignore[no-untyped-call]  # the client has no py.typed
    return tmp_path


def test_persona_of_before_is_served_with_a_warning_and_no_new_one_is_made(
    persona_folder: Path, refusal_of: RefusalOf
) -> None:
    """Its answers are the same; models made from it keep the adapter."""
    new = OllamaServer(persona_folder)
    with new.process:
        client = ollama.Client(new.host)
        said = {name: (persona_folder / name).read_text() for name in ("base", "anna")}
        assert said["base"] != said["anna"]
        assert {name: ask(client, name) for name in said} == said
        client.create("heir", from_="anna", system="", stream=False)
        assert ask(client, "heir") == said["anna"]
        digest = client.create_blob(persona_folder / "adapter.gguf")
        error = refusal_of(
            lambda: client.create("bert", from_="base", adapters={"a.gguf": digest}, stream=False)
        )
        assert (error.status_code, error.error) == (400, "LoRA adapters are no longer supported")
        client.close()  # type: ignore[no-untyped-call]  # the client has no py.typed
    log = (persona_folder / "logs" / "ollama.log").read_text()
    assert "LoRA adapters are deprecated" in log and "carried over" in log
