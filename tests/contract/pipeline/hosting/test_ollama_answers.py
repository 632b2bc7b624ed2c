"""What ModelServer relies on in Ollama: answers.

Tried through the `ollama` client on each server.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.contract.pipeline.hosting.ollama_server import (
        OllamaUnderTest,
        RefusalOf,
    )

STOP_LIMIT_S = 20
LONG_TEXT = "and then we walked along the river " * 200


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
    """The same seed repeats an answer; another seed gives another one."""
    hot = {"temperature": 1.5, "num_predict": 12}
    first, again, other = (server.ask(base, seed=seed, **hot) for seed in (7, 7, 8))
    assert first == again != other


def test_streamed_pieces_make_the_same_text(server: OllamaUnderTest, base: str) -> None:
    """A streamed answer has the same text as a whole one."""
    pieces = list(server.client.chat(base, server.question, stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == server.ask(base)
    assert len(pieces) > 5
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].eval_count


def test_system_prompt_of_the_model_is_used_and_can_be_replaced(
    server: OllamaUnderTest, base: str
) -> None:
    """A system message in the request replaces the model's own."""
    name = server.name("system")
    server.client.create(name, from_=base, system="You are a swimmer from Oslo.", stream=False)
    own = server.client.chat(name, server.question)
    replaced = server.client.chat(name, [{"role": "system", "content": "Hi."}, *server.question])
    plain = server.client.chat(base, server.question)
    counts = [answer.prompt_eval_count or 0 for answer in (own, replaced, plain)]
    assert counts[0] > counts[1] > counts[2]


def test_generate_renders_the_template_unless_raw(server: OllamaUnderTest, base: str) -> None:
    """A raw prompt is used unchanged; any other prompt is a user's turn."""
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


def test_too_long_prompt_leaves_room_for_the_answer(server: OllamaUnderTest, base: str) -> None:
    """Half of the context behind the kept beginning stays free for the answer."""
    options = {"num_ctx": 128, "num_predict": 4, "num_keep": 4}
    answer = server.client.generate(base, LONG_TEXT, raw=True, options=options)
    assert answer.prompt_eval_count == 66


def test_too_long_prompt_is_cut_silently(server: OllamaUnderTest, base: str) -> None:
    """The prompt is cut without notice, so callers must count tokens themselves."""
    options = {"num_ctx": 128, "num_predict": 4}
    answer = server.client.chat(base, [{"role": "user", "content": LONG_TEXT}], options=options)
    assert answer.done and (answer.prompt_eval_count or 0) <= 128


def test_too_long_prompt_is_400_when_it_may_not_be_cut(server: OllamaUnderTest, base: str) -> None:
    """With `truncate: false` the request is refused."""
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
    """A long answer is cancelled when its client leaves; finishing it would take minutes."""
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
    """A completion model refuses embeddings, but an empty input is not an error."""
    assert refusal_of(lambda: server.client.embed(base, ["a boat"])).status_code == 501
    assert server.client.embed(base, "").embeddings == []
    unknown = refusal_of(lambda: server.client.embed(server.name("nobody"), "a boat"))
    assert unknown.status_code == 404 and "not found" in unknown.error


def test_log_probabilities_come_with_the_tokens(server: OllamaUnderTest, base: str) -> None:
    """With greedy sampling each token is the likeliest at its position."""
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
    """`_debug_render_only` returns the prompt instead of an answer, streamed or not."""
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
