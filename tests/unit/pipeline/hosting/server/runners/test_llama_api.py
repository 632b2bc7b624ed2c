"""Requests to llama.cpp: each names every adapter, and caches are reused only where safe."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest

from pipeline.hosting.server.completions.options import Options
from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.runners.llama_api import Chunks, LlamaApi
from pipeline.hosting.server.runners.usage import TokenLogprob, Usage

ANNA, BERT = "sha256:anna", "sha256:bert"


Chunk = dict[str, Any]


def piece(text: str) -> Chunk:
    return {"choices": [{"text": text, "finish_reason": None}]}


END: Chunk = {
    "choices": [{"text": "", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
    "timings": {"prompt_ms": 2.0, "predicted_ms": 3.0, "cache_n": 4},
}


class ScriptedLlama(LlamaApi):
    """Streams what it is told, and keeps what it was asked."""

    def __init__(self, slots: int = 1) -> None:
        self.asked: list[dict[str, Any]] = []
        self.script: list[Chunk] = [piece("a"), piece("b"), END]
        super().__init__((ANNA, BERT), context=64, slots=slots)

    def fault(self) -> str | None:
        return None

    def close(self) -> None:
        """Nothing to close."""

    def _stream(self, request: dict[str, Any], chunks: Chunks) -> None:
        self.asked.append(request)
        for chunk in self.script:
            if chunks(chunk):
                return

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"tokens": list(range(len(body["content"])))}

    def _ask_embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        raise Refusal(501, "no embeddings")


def ask(llama: LlamaApi, adapters: Sequence[str], *, stop_at: str = "never", **more: Any) -> Usage:
    """Ask with a prompt that fits."""
    return llama.complete(
        "Hello",
        Options(num_ctx=64),
        adapters=adapters,
        cuts=True,
        schema=None,
        on_piece=lambda text: text == stop_at,
        **more,
    )


def test_each_request_names_the_scale_of_every_adapter() -> None:
    """None is left over from another request."""
    llama = ScriptedLlama()
    for adapters in ([BERT], []):
        ask(llama, adapters)
    assert [request["lora"] for request in llama.asked] == [
        [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}],
        [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}],
    ]


def test_adapter_that_is_not_loaded_is_never_asked_for() -> None:
    """llama.cpp would answer as the base."""
    llama = ScriptedLlama()
    with pytest.raises(Refusal, match="not loaded"):
        ask(llama, ["sha256:cleo"])
    assert not llama.asked


@pytest.mark.parametrize(
    ("script", "stop_at"),
    [
        ([{"error": {"code": 400, "message": "no"}}], "never"),
        ([piece("a")], "never"),
        ([piece("a"), piece("b"), END], "a"),
        ([piece("a"), piece("b"), END], ""),
    ],
    ids=["refused", "broken off", "stopped on the way", "left before it began"],
)
def test_slot_is_not_trusted_after_a_request_that_did_not_end_well(
    script: list[Chunk], stop_at: str
) -> None:
    """It may hold another persona's prompt still: nobody knows how far the request came."""
    llama = ScriptedLlama()
    ask(llama, [ANNA])
    ask(llama, [ANNA])
    assert [request["cache_prompt"] for request in llama.asked] == [False, True]
    good, llama.script = llama.script, script
    fails = stop_at == "never"
    with pytest.raises(Refusal) if fails else nullcontext():
        assert ask(llama, [BERT], stop_at=stop_at).done_reason == "cancelled"
    llama.script = good
    ask(llama, [BERT])
    assert llama.asked[-1]["cache_prompt"] is False


def test_llama_cpps_error_keeps_its_code_and_sentence() -> None:
    """A stream that breaks off without one is a 503: no fault of the model that was asked."""
    llama = ScriptedLlama()
    llama.script = [piece("a"), {"error": {"code": 400, "message": "too long"}}]
    with pytest.raises(Refusal, match="too long") as refused:
        ask(llama, [])
    assert refused.value.status == 400
    llama.script = [piece("a")]
    with pytest.raises(Refusal, match="ended while it answered") as broken:
        ask(llama, [])
    assert broken.value.status == 503


def test_usage_and_probabilities_are_read() -> None:
    """Tokens, nanoseconds, what was known already; probabilities only where they are wanted."""
    llama = ScriptedLlama()
    token = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -1.5}]}
    choice = {"text": "a", "finish_reason": None, "logprobs": {"content": [token]}}
    llama.script = [{"choices": [choice]}, END]
    heard: list[TokenLogprob] = []
    usage = ask(llama, [], top_logprobs=3, on_logprobs=heard.extend)
    assert llama.asked[-1]["n_probs"] == 3
    assert heard[0].token == "a" and heard[0].top[0].logprob == -1.5
    assert (usage.prompt_tokens, usage.prompt_ns, usage.cached_tokens) == (5, 2_000_000, 4)
    ask(llama, [])
    assert "n_probs" not in llama.asked[-1]
