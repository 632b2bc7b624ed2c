"""What is in memory, and until when: `keep_alive`, `/api/ps`, and who gives way to whom.

Where many personas share a base it stays, whatever one of them is asked with.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import httpx
import pytest

from pipeline.hosting.server.profile import DEFAULT_MAX_RUNNERS
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.contract.pipeline.hosting.ollama_server import (
        MakePersona,
        MergedGguf,
        OllamaUnderTest,
    )


def minutes_left(server: OllamaUnderTest, model: str) -> float:
    """Return the seconds until a model's keep-alive ends."""
    (entry,) = [m for m in server.client.ps().models if m.model == f"{model}:latest"]
    assert entry.expires_at is not None
    return (entry.expires_at - datetime.now(UTC)).total_seconds() / 60


def is_about(value: Callable[[], float], expected: float) -> bool:
    """Say whether a value is within 10 % of the expected one."""
    return abs(value() - expected) < expected / 10


def test_empty_prompt_loads_the_model(server: OllamaUnderTest, base: str) -> None:
    """Warms a model up; it is then listed as loaded unless its file was loaded before."""
    server.unload(base)
    answer = server.client.generate(base, "")
    assert (answer.done, answer.done_reason) == (True, "load")
    assert base in server.loaded


def test_model_stays_as_long_as_asked_for(server: OllamaUnderTest, base: str) -> None:
    """`keep_alive` sets the expiry in `/api/ps`; a request without one keeps it."""
    server.unload(base)
    for wanted, minutes in ((None, 5), ("10m", 10), (None, 10), (90, 1.5)):
        server.client.generate(base, "", keep_alive=wanted)
        if server.is_shared:
            assert minutes_left(server, base) > 1e6
        else:
            wait_for(partial(is_about, partial(minutes_left, server, base), minutes))
    server.client.generate(base, "", keep_alive=-1)
    wait_for(lambda: minutes_left(server, base) > 1e6)


def test_model_leaves_after_an_answer_that_wants_it(server: OllamaUnderTest, base: str) -> None:
    """With `keep_alive: 0`; a request without a prompt answers `unload`."""
    server.client.generate(base, "")
    server.client.chat(base, server.question, options={"num_predict": 1}, keep_alive=0)
    if server.is_shared:
        assert base in server.loaded
    else:
        wait_for(lambda: base not in server.loaded)
    assert server.client.generate(base, "", keep_alive=0).done_reason == "unload"


def test_model_leaves_when_its_time_is_over(server: OllamaUnderTest, base: str) -> None:
    """The keep-alive passes without a request."""
    if server.is_shared:
        pytest.skip("a shared base stays; the test of its `keep_alive` shows it")
    server.client.generate(base, "", keep_alive=0.05)
    wait_for(lambda: base not in server.loaded)


@pytest.mark.parametrize(
    ("keep_alive", "sentence"),
    [("soon", 'time: invalid duration "soon"'), (True, "Unsupported type: 'bool'")],
)
def test_time_to_stay_that_is_none_is_400(
    server: OllamaUnderTest, base: str, keep_alive: object, sentence: str
) -> None:
    """Before anything is loaded."""
    body = {"model": base, "messages": [*server.question], "keep_alive": keep_alive}
    answer = httpx.post(f"{server.host}/api/chat", json=body)
    assert (answer.status_code, answer.json()["error"]) == (400, sentence)


def test_no_more_models_are_loaded_than_allowed(
    server: OllamaUnderTest, merged_gguf: MergedGguf
) -> None:
    """Each merged model is a separate file: the least recently used one is evicted."""
    names = []
    for seed in (1, 2, 3, 4):
        names.append(server.name(f"own{seed}"))
        files = {"m.gguf": server.client.create_blob(merged_gguf(seed))}
        options = {"num_ctx": 512}
        server.client.create(names[-1], files=files, parameters=options, stream=False)
        server.client.generate(names[-1], "")
    limit = int(os.environ.get("OLLAMA_MAX_LOADED_MODELS") or DEFAULT_MAX_RUNNERS)
    assert names[-1] in server.loaded
    assert len(server.client.ps().models) <= limit
    if limit < len(names):
        assert names[0] not in server.loaded
    for name in names:
        server.unload(name)
        server.client.delete(name)


def test_one_persona_a_base_is_loaded_where_adapters_are_taken(
    server: OllamaUnderTest, base: str, make_persona: MakePersona
) -> None:
    """Personas with adapters evict each other on an Ollama; merged ones are models of their own.

    Of a base that is shared the list names the persona who was asked last.
    """
    anna, bert = make_persona("anna", 1), make_persona("bert", 2)
    for persona in (anna, bert):
        server.ask(persona, num_predict=1)
    assert bert in server.loaded
    assert (anna in server.loaded) is not server.takes_adapters
    server.ask(base, num_predict=1)
    assert base in server.loaded
    assert (bert in server.loaded) is not server.takes_adapters


def test_other_context_is_another_load(server: OllamaUnderTest, base: str) -> None:
    """A larger or smaller context reloads; a shared base serves a smaller one without a reload."""
    if server.is_shared:
        server.client.generate(base, "", options={"num_ctx": 1024})
        server.client.generate(base, "", options={"num_ctx": 512})
        (entry,) = [m for m in server.client.ps().models if m.model == f"{base}:latest"]
        assert (entry.context_length or 0) >= 1024
        return
    server.unload(base)
    for tokens in (512, 1024, 512):
        server.client.generate(base, "", options={"num_ctx": tokens})
        (entry,) = [m for m in server.client.ps().models if m.model == f"{base}:latest"]
        assert entry.context_length == tokens
