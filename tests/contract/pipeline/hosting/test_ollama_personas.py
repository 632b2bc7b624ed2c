"""No persona meets another: with an adapter beside the base, or merged into it, by version."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.contract.pipeline.hosting.ollama_server import (
        MakePersona,
        OllamaUnderTest,
        RefusalOf,
        WriteAdapter,
    )


# More than a server has slots, and each unlike the others: so a slot's state must give way.
FILLERS = [f"{word} " * 60 for word in ("fox", "night", "hill", "north", "moon", "forest")]
# Tokens compared. llama.cpp adds up in another order when it works on several requests at once or
# goes on from a prompt it has; further on, one of two equally likely words may then win that did
# not win before. A random adapter's replies differ from the first word on.
OPENING = 3


def test_adapter_changes_the_answer_and_only_its_own(
    server: OllamaUnderTest, base: str, make_persona: MakePersona
) -> None:
    """Base, Anna and Bert in any order: each answers as it does alone."""
    anna, bert = make_persona("anna", 1), make_persona("bert", 2)
    alone = {model: server.ask(model, num_predict=OPENING) for model in (base, anna, bert)}
    assert len(set(alone.values())) == 3
    for model in (anna, base, bert, base, anna, bert):
        assert server.ask(model, num_predict=OPENING) == alone[model]


def test_base_after_persona_says_what_it_says_when_clean(
    server: OllamaUnderTest, base: str, make_persona: MakePersona
) -> None:
    """llama.cpp's prompt cache would give the base a persona's saved state."""
    anna = make_persona("anna", 1)
    clean = server.ask(base, num_predict=OPENING)
    for _ in range(2):
        assert server.ask(anna, num_predict=OPENING) != clean
        for filler in FILLERS:
            server.client.generate(base, filler, raw=True, options={"num_predict": 1})
        assert server.ask(base, num_predict=OPENING) == clean


def test_personas_asked_at_once_do_not_mix(
    server: OllamaUnderTest, base: str, make_persona: MakePersona
) -> None:
    """Requests under way together do not touch each other.

    One asker a persona: llama.cpp puts requests of the same one into one batch, and adds up in
    another order there.
    """
    models = [base, make_persona("anna", 1), make_persona("bert", 2)]
    alone = {model: server.ask(model, num_predict=OPENING) for model in models}
    assert len(set(alone.values())) == 3

    def ask_often(model: str) -> list[str]:
        return [server.ask(model, num_predict=OPENING) for _ in range(4)]

    with ThreadPoolExecutor(len(models)) as askers:
        answers = dict(zip(models, askers.map(ask_often, models), strict=True))
    assert answers == {model: [alone[model]] * 4 for model in models}


def test_new_persona_answers_while_another_is_talking(
    server: OllamaUnderTest, base: str, make_persona: MakePersona
) -> None:
    """A newly trained version does not interrupt a conversation."""
    anna = make_persona("anna", 1)
    opening = server.ask(anna, num_predict=OPENING)
    talking = server.client.chat(
        anna, server.question, stream=True, options={"num_predict": 60, "stop": []}
    )
    pieces = [next(iter(talking))]
    with ThreadPoolExecutor(1) as other:
        persona = make_persona("newcomer", 3)
        newcomer = other.submit(server.ask, persona, num_predict=OPENING)
        pieces += talking
        assert newcomer.result()
    assert "".join(piece.message.content or "" for piece in pieces).startswith(opening)
    assert pieces[-1].done and (pieces[-1].eval_count or 0) > 3


def test_deleted_persona_is_gone_and_the_others_stay(
    server: OllamaUnderTest, refusal_of: RefusalOf, base: str, make_persona: MakePersona
) -> None:
    """Deleting one persona leaves the others unchanged."""
    anna, gone = make_persona("anna", 1), make_persona("gone", 4)
    before = server.ask(anna, num_predict=OPENING)
    assert server.ask(gone, num_predict=OPENING) != before
    server.client.delete(gone)
    assert refusal_of(lambda: server.ask(gone)).status_code == 404
    assert server.ask(anna, num_predict=OPENING) == before


def test_adapter_that_would_crash_the_runner_is_refused(
    server: OllamaUnderTest,
    refusal_of: RefusalOf,
    base: str,
    write_adapter: WriteAdapter,
    tmp_path: Path,
) -> None:
    """Adapters with F64 tensors or wrong widths never reach llama.cpp."""
    if not server.takes_adapters:
        pytest.skip("this version takes no adapter at all")
    if not (server.is_embedded or server.is_shared):
        pytest.skip("a real Ollama accepts these and crashes its runner at the first chat")
    name = server.name("crash")
    double, narrow = tmp_path / "double", tmp_path / "narrow"
    write_adapter(double, 5, dtype=np.float64)
    write_adapter(narrow, 5, width=64)
    for path in (double, narrow):
        adapters = {"adapter.gguf": server.client.create_blob(path)}
        create = partial(server.client.create, name, from_=base, adapters=adapters)
        assert refusal_of(create).status_code == 400
    assert server.ask(base, num_predict=2)
