"""What ModelServer relies on in Ollama: answers, and that no persona meets another.

Tried through the `ollama` client on each server.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

from pipeline.hosting.server.profile import DEFAULT_MAX_RUNNERS
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.contract.conftest import (
        MakePersona,
        MergedGguf,
        OllamaUnderTest,
        RefusalOf,
        WriteAdapter,
    )

STOP_LIMIT_S = 20
# More than a server has slots, and each unlike the others: so a slot's state must give way.
FILLERS = [f"{word} " * 60 for word in ("fox", "night", "hill", "north", "moon", "forest")]
LONG_TEXT = "and then we walked along the river " * 200


def minutes_left(server: OllamaUnderTest, model: str) -> float:
    """Return how long a model stays as it looks now."""
    (entry,) = [m for m in server.client.ps().models if m.model == f"{model}:latest"]
    assert entry.expires_at is not None
    return (entry.expires_at - datetime.now(UTC)).total_seconds() / 60


def is_about(value: Callable[[], float], expected: float) -> bool:
    """Say whether a value is within a tenth of what is expected."""
    return abs(value() - expected) < expected / 10


# -- answers ----------------------------------------------------------------------------------


def test_chat_counts_tokens_and_time(server: OllamaUnderTest, base: str) -> None:
    """The last line says how much was read and written, and how long it took, in ns."""
    answer = server.client.chat(base, server.question, options={"num_predict": 5})
    assert answer.message.role == "assistant" and answer.message.content
    assert (answer.done, answer.done_reason, answer.eval_count) == (True, "length", 5)
    assert answer.prompt_eval_count and answer.prompt_eval_count > 5
    assert answer.total_duration and answer.eval_duration and answer.prompt_eval_duration
    assert answer.total_duration >= answer.eval_duration


def test_stop_sequence_ends_the_answer(server: OllamaUnderTest, base: str) -> None:
    """The stop sequence itself is not part of the answer."""
    whole = server.ask(base)
    word = whole.split()[1]
    answer = server.client.chat(base, server.question, options={"stop": [word]})
    assert answer.done_reason == "stop"
    assert answer.message.content is not None and word not in answer.message.content
    assert whole.startswith(answer.message.content)


def test_same_seed_gives_the_same_text(server: OllamaUnderTest, base: str) -> None:
    """A seeded answer can be had again, and another seed gives another."""
    hot = {"temperature": 1.5, "num_predict": 12}
    first, again, other = (server.ask(base, seed=seed, **hot) for seed in (7, 7, 8))
    assert first == again != other


def test_streamed_pieces_make_the_same_text(server: OllamaUnderTest, base: str) -> None:
    """Streaming changes how the text comes, not what it says."""
    pieces = list(server.client.chat(base, server.question, stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == server.ask(base)
    assert len(pieces) > 5
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].eval_count


def test_system_prompt_of_the_model_is_used_and_can_be_replaced(
    server: OllamaUnderTest, base: str
) -> None:
    """A system message of the request goes in the place of the model's own."""
    name = server.name("system")
    server.client.create(name, from_=base, system="You are a swimmer from Oslo.", stream=False)
    own = server.client.chat(name, server.question)
    replaced = server.client.chat(name, [{"role": "system", "content": "Hi."}, *server.question])
    plain = server.client.chat(base, server.question)
    counts = [answer.prompt_eval_count or 0 for answer in (own, replaced, plain)]
    assert counts[0] > counts[1] > counts[2]


def test_generate_renders_the_template_unless_raw(server: OllamaUnderTest, base: str) -> None:
    """Raw is the prompt as it stands; else it is a user's turn."""
    rendered = server.client.generate(base, "Who taught you to swim?")
    raw = server.client.generate(base, "Who taught you to swim?", raw=True)
    prompt = server.template.partition("{{ if .Prompt }}")[2].partition("{{ end }}")[0]
    by_hand = server.client.generate(
        base,
        prompt.replace("{{ .Prompt }}", "Who taught you to swim?") + "<|im_start|>assistant\n",
        raw=True,
    )
    assert rendered.response == by_hand.response == server.ask(base)
    assert (raw.prompt_eval_count or 0) < (rendered.prompt_eval_count or 0)


def test_empty_prompt_loads_the_model(server: OllamaUnderTest, base: str) -> None:
    """How a model is warmed up; it is then listed as loaded, unless its file was loaded already."""
    server.unload(base)
    answer = server.client.generate(base, "")
    assert (answer.done, answer.done_reason) == (True, "load")
    assert base in server.loaded


def test_model_stays_as_long_as_asked_for(server: OllamaUnderTest, base: str) -> None:
    """`keep_alive` moves the end that `/api/ps` tells; a request that says nothing keeps it."""
    server.unload(base)
    for wanted, minutes in ((None, 5), ("10m", 10), (None, 10), (90, 1.5)):
        server.client.generate(base, "", keep_alive=wanted)
        wait_for(partial(is_about, partial(minutes_left, server, base), minutes))
    server.client.generate(base, "", keep_alive=-1)
    wait_for(lambda: minutes_left(server, base) > 1e6)


def test_model_leaves_after_an_answer_that_wants_it(server: OllamaUnderTest, base: str) -> None:
    """With `keep_alive: 0`; asked to leave without a question, it answers `unload`."""
    server.client.generate(base, "")
    server.client.chat(base, server.question, options={"num_predict": 1}, keep_alive=0)
    wait_for(lambda: base not in server.loaded)
    assert server.client.generate(base, "", keep_alive=0).done_reason == "unload"


def test_model_leaves_when_its_time_is_over(server: OllamaUnderTest, base: str) -> None:
    """By the clock, without anybody asking."""
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
    """Each merged model is a file of its own: the one asked longest ago gives way."""
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


def test_too_long_prompt_leaves_room_for_the_answer(server: OllamaUnderTest, base: str) -> None:
    """Of the context, half of what is not kept at the beginning is left free."""
    options = {"num_ctx": 128, "num_predict": 4, "num_keep": 4}
    answer = server.client.generate(base, LONG_TEXT, raw=True, options=options)
    assert answer.prompt_eval_count == 66


def test_too_long_prompt_is_cut_silently(server: OllamaUnderTest, base: str) -> None:
    """The answer comes all the same; nobody is told (so callers must count for themselves)."""
    options = {"num_ctx": 128, "num_predict": 4}
    answer = server.client.chat(base, [{"role": "user", "content": LONG_TEXT}], options=options)
    assert answer.done and (answer.prompt_eval_count or 0) <= 128


def test_too_long_prompt_is_400_when_it_may_not_be_cut(server: OllamaUnderTest, base: str) -> None:
    """With `truncate: false` a caller is told."""
    body = {
        "model": base,
        "messages": [{"role": "user", "content": LONG_TEXT}],
        "options": {"num_ctx": 128},
        "truncate": False,
        "stream": False,
    }
    answer = httpx.post(f"{server.host}/api/chat", json=body, timeout=60)
    assert answer.status_code == 400 and "context" in answer.json()["error"]


def test_client_that_leaves_does_not_hold_up_the_next(server: OllamaUnderTest, base: str) -> None:
    """Long answers that nobody reads any more are stopped: finished, they would take minutes."""
    count = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10,"
    endless = {"num_predict": 100_000, "num_ctx": 4096, "stop": []}
    for _ in range(6):
        stream = server.client.generate(base, count, raw=True, stream=True, options=endless)
        assert isinstance(stream, Generator)
        next(stream)
        stream.close()
    began = time.monotonic()
    assert server.ask(base, num_predict=2)
    assert time.monotonic() - began < STOP_LIMIT_S


def test_base_without_embeddings_says_so(
    server: OllamaUnderTest, refusal_of: RefusalOf, base: str
) -> None:
    """A language model is loaded for answers only. Nothing to embed is no error."""
    assert refusal_of(lambda: server.client.embed(base, ["a boat"])).status_code == 501
    assert server.client.embed(base, "").embeddings == []
    unknown = refusal_of(lambda: server.client.embed(server.name("nobody"), "a boat"))
    assert unknown.status_code == 404 and "not found" in unknown.error


def test_log_probabilities_come_with_the_tokens(server: OllamaUnderTest, base: str) -> None:
    """Greedily drawn, each token is the likeliest in its place."""
    options = {"num_predict": 4}
    plain = server.client.chat(base, server.question, options=options, logprobs=True)
    assert plain.logprobs and len(plain.logprobs) == 4
    assert "".join(each.token for each in plain.logprobs) == plain.message.content
    assert all(each.logprob < 0 and not each.top_logprobs for each in plain.logprobs)
    told = server.client.chat(base, server.question, options=options, logprobs=True, top_logprobs=3)
    for each in told.logprobs or ():
        best, *others = each.top_logprobs or ()
        assert best.token == each.token and abs(best.logprob - each.logprob) < 1e-4
        assert len(others) == 2 and all(other.logprob <= best.logprob for other in others)
    assert server.client.chat(base, server.question, options=options).logprobs is None


def test_log_probabilities_are_streamed_with_their_piece(
    server: OllamaUnderTest, base: str
) -> None:
    """So a reader can stop early."""
    body = {
        "model": base,
        "prompt": "Hello",
        "logprobs": True,
        "top_logprobs": 1,
        "options": {"num_predict": 3},
    }
    answer = httpx.post(f"{server.host}/api/generate", json=body, timeout=60)
    *pieces, last = [json.loads(line) for line in answer.text.splitlines()]
    assert "logprobs" not in last
    for piece in pieces:
        (token,) = piece["logprobs"]
        assert token["token"] == piece["response"]
        assert bytes(token["bytes"]).decode() == token["token"]


@pytest.mark.parametrize("count", [-1, 21])
def test_too_many_likeliest_tokens_are_400(server: OllamaUnderTest, base: str, count: int) -> None:
    """Twenty is the most."""
    body = {"model": base, "messages": [*server.question], "top_logprobs": count}
    answer = httpx.post(f"{server.host}/api/chat", json=body)
    expected = (400, "top_logprobs must be between 0 and 20")
    assert (answer.status_code, answer.json()["error"]) == expected


def test_rendered_prompt_can_be_asked_for(server: OllamaUnderTest, base: str) -> None:
    """`_debug_render_only` gives the prompt in place of an answer, whatever the mode."""
    name = server.name("rendered")
    server.client.create(name, from_=base, system="You are old.", stream=False)
    prompt = (
        "<|im_start|>system\nYou are old.<|im_end|>\n"
        "<|im_start|>user\nWho taught you to swim?<|im_end|>\n<|im_start|>assistant\n"
    )
    bodies: dict[str, dict[str, object]] = {
        "chat": {"messages": [*server.question]},
        "generate": {"prompt": "Who taught you to swim?"},
    }
    for path, body in bodies.items():
        for stream in (True, False):
            asked = body | {"model": name, "stream": stream, "_debug_render_only": True}
            answer = httpx.post(f"{server.host}/api/{path}", json=asked, timeout=60).json()
            assert answer["_debug_info"]["rendered_template"] == prompt
            assert answer["done"] is False


# -- personas ---------------------------------------------------------------------------------

# Tokens compared. llama.cpp adds up in another order when it works on several requests at once or
# goes on from a prompt it has; further on, one of two equally likely words may then win that did
# not win before. A random adapter's replies differ from the first word on.
OPENING = 3


def test_adapter_changes_the_answer_and_only_its_own(
    server: OllamaUnderTest, base: str, make_persona: MakePersona
) -> None:
    """Base, Anna, Bert, in any order: each begins as it does alone, never with another's words."""
    anna, bert = make_persona("anna", 1), make_persona("bert", 2)
    alone = {model: server.ask(model, num_predict=OPENING) for model in (base, anna, bert)}
    assert len(set(alone.values())) == 3
    for model in (anna, base, bert, base, anna, bert):
        assert server.ask(model, num_predict=OPENING) == alone[model]


def test_base_after_persona_says_what_it_says_when_clean(
    server: OllamaUnderTest, base: str, make_persona: MakePersona
) -> None:
    """The leak of llama.cpp's prompt cache: a persona's state, put aside, found by the base."""
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
    """Requests under way together do not touch each other."""
    models = [base, make_persona("anna", 1), make_persona("bert", 2)]
    alone = {model: server.ask(model, num_predict=OPENING) for model in models}
    assert len(set(alone.values())) == 3
    asked = models * 4
    with ThreadPoolExecutor(len(asked)) as askers:
        answers = list(askers.map(lambda model: server.ask(model, num_predict=OPENING), asked))
    assert answers == [alone[model] for model in asked]


def test_new_persona_answers_while_another_is_talking(
    server: OllamaUnderTest, base: str, make_persona: MakePersona
) -> None:
    """A version that was just trained does not cut off a conversation."""
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
    """Forgetting one person touches nobody else."""
    anna, gone = make_persona("anna", 1), make_persona("gone", 4)
    before = server.ask(anna, num_predict=OPENING)
    assert server.ask(gone, num_predict=OPENING) != before
    server.client.delete(gone)
    assert refusal_of(lambda: server.ask(gone)).status_code == 404
    assert server.ask(anna, num_predict=OPENING) == before


def test_one_persona_a_base_is_loaded_where_adapters_are_taken(
    server: OllamaUnderTest, base: str, make_persona: MakePersona
) -> None:
    """Personas with adapters evict each other; merged ones are models of their own."""
    anna, bert = make_persona("anna", 1), make_persona("bert", 2)
    for persona in (anna, bert):
        server.ask(persona, num_predict=1)
    assert bert in server.loaded
    assert (anna in server.loaded) is not server.takes_adapters


def test_adapter_that_would_crash_the_runner_is_refused(
    server: OllamaUnderTest,
    refusal_of: RefusalOf,
    base: str,
    write_adapter: WriteAdapter,
    tmp_path: Path,
) -> None:
    """F64 tensors (easily made with NumPy) and wrong widths never reach llama.cpp."""
    if not server.takes_adapters:
        pytest.skip("this version takes no adapter at all")
    if not server.is_embedded:
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
