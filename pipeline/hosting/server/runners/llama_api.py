"""What runners in this process and behind HTTP have in common: prompts, slots, streams.

Personas must never leak into each other. Each request sets the scale of every adapter, so none
stays applied from an earlier request. A slot's KV cache is reused only for the same adapters:
llama.cpp itself would reuse it for any request with the same prompt prefix, and so continue one
persona's text with another one's state.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipeline.hosting.server.completions.options import Options
from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.runners.slots import Slots
from pipeline.hosting.server.runners.usage import TokenLogprob, Usage

OnLogprobs = Callable[[Sequence[TokenLogprob]], None]
_NS_PER_MS = 1_000_000


class LlamaApi(ABC):
    """A Runner over llama.cpp's API; the subclass provides the transport.

    llama.cpp addresses an adapter by its index in the list it was started with; `adapters` has
    the same order.
    """

    def __init__(self, adapters: Iterable[str], *, context: int, slots: int) -> None:
        """Wrap a llama.cpp that is ready; `adapters` are digests in the order of the load."""
        self.context = context
        self.adapters = tuple(adapters)
        self._slots = Slots(slots)
        self._bos = self._ask_bos()

    def complete(
        self,
        prompt: str,
        options: Options,
        *,
        adapters: Sequence[str],
        cuts: bool,
        schema: dict[str, Any] | None,
        on_piece: Callable[[str], bool],
        top_logprobs: int = 0,
        on_logprobs: OnLogprobs | None = None,
    ) -> Usage:
        """Complete a prompt."""
        request = {
            **options.as_llama(),
            "prompt": self._fit(prompt, options, cuts=cuts),
            "lora": self._scales(adapters),
            "stream": True,
        }
        if schema is not None:
            request["json_schema"] = schema
        if on_logprobs is not None:
            request["n_probs"] = max(top_logprobs, 1)
        chunks = Chunks(on_piece, on_logprobs)
        with self._slots.take(adapters) as (slot, is_known):
            if not chunks.poll():
                self._stream(request | {"id_slot": slot, "cache_prompt": is_known}, chunks)
            usage = chunks.usage()
            if chunks.is_stopped:
                self._slots.forget(slot)
        return usage

    def count_tokens(self, text: str) -> int:
        """Count tokens."""
        return len(self._tokenize(text))

    def embed(self, texts: Sequence[str], dimensions: int | None) -> tuple[list[list[float]], int]:
        """Embed texts."""
        answer = self._ask_embeddings({"input": list(texts)})
        rows = sorted(answer["data"], key=lambda row: int(row["index"]))
        vectors = [_normalise(row["embedding"][:dimensions]) for row in rows]
        return vectors, int(answer["usage"]["prompt_tokens"])

    @abstractmethod
    def fault(self) -> str | None:
        """Return how the process ended, or None while it runs."""

    @abstractmethod
    def close(self) -> None:
        """Free the memory."""

    @abstractmethod
    def _stream(self, request: dict[str, Any], chunks: "Chunks") -> None:
        """Send a completion request and pass each chunk to `chunks` until it returns true."""

    @abstractmethod
    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request to llama.cpp's server; raises Refusal for an error response."""

    @abstractmethod
    def _ask_embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        """Request embeddings in OpenAI's format; raises Refusal for an error response."""

    def _scales(self, adapters: Sequence[str]) -> list[dict[str, Any]]:
        """Return the scale of every adapter, by its index."""
        if missing := set(adapters) - set(self.adapters):
            # Answering without them would be another persona, or the bare base.
            raise Refusal(500, f"{len(missing)} of the model's adapters are not loaded here")
        return [
            {"id": index, "scale": 1.0 if digest in adapters else 0.0}
            for index, digest in enumerate(self.adapters)
        ]

    def _fit(self, prompt: str, options: Options, *, cuts: bool) -> str | list[int]:
        """Return the prompt, or its remaining tokens if it is too long and may be cut."""
        # llama.cpp prepends the BOS to every prompt; a template may contain one already.
        prompt = prompt.removeprefix(self._bos) if self._bos else prompt
        limit = min(options.num_ctx, self.context)
        # A token is at least one byte long, so most prompts need no counting.
        if len(prompt.encode()) < limit:
            return prompt
        tokens = self._tokenize(prompt)
        if len(tokens) < limit:
            return prompt
        if not cuts:
            sizes = f"({len(tokens)} tokens) exceeds the available context size ({limit} tokens)"
            raise Refusal(400, f"request {sizes}, try increasing it")
        wanted = options.num_keep if options.num_keep >= 0 else len(tokens)
        kept = min(wanted + bool(self._bos), limit - 1)
        # Keep the beginning and the end, cut the middle. As in Ollama, half of the context
        # behind the kept beginning stays free for the answer.
        length = limit - max((limit - kept) // 2, 1)
        return tokens[:kept] + tokens[len(tokens) - (length - kept) :]

    def _tokenize(self, text: str) -> list[int]:
        request = {"content": text, "add_special": True, "parse_special": True}
        tokens: list[int] = self._post("/tokenize", request)["tokens"]
        return tokens

    def _ask_bos(self) -> str:
        """Return the BOS token that llama.cpp prepends to each prompt; empty if it does not."""
        if not self._tokenize(""):
            return ""
        return str(self._post("/detokenize", {"tokens": self._tokenize("")})["content"])


class Chunks:
    """Consumes llama.cpp's stream. Called with each chunk, it returns true to stop."""

    def __init__(self, on_piece: Callable[[str], bool], on_logprobs: OnLogprobs | None) -> None:
        self._on_piece = on_piece
        self._on_logprobs = on_logprobs
        self._last: dict[str, Any] = {}
        self._error: dict[str, Any] | None = None
        self._pieces = 0
        self.is_stopped = False
        """Whether `on_piece` stopped the stream before its end."""

    def __call__(self, chunk: dict[str, Any]) -> bool:
        """Consume one chunk."""
        if "choices" not in chunk:
            self._error = chunk.get("error", chunk)
            return True
        choice = chunk["choices"][0]
        if choice["finish_reason"] is not None:
            self._last = chunk
        self._pieces += 1
        if self._on_logprobs is not None and choice.get("logprobs"):
            self._on_logprobs([_token(entry) for entry in choice["logprobs"]["content"]])
        return self._tell(choice["text"]) if choice["text"] else False

    def poll(self) -> bool:
        """Say whether the request was cancelled, while there is no new text."""
        return self._tell("")

    def usage(self) -> Usage:
        """Return token counts and durations; of a stopped answer only the number of pieces.

        Raises:
            Refusal: llama.cpp's own error; 503, the stream ended early.
        """
        if self._error is not None:
            raise to_refusal(self._error)
        if not self._last:
            if not self.is_stopped:
                raise Refusal(503, "llama.cpp ended while it answered; ask again")
            return Usage(
                done_reason="cancelled",
                prompt_tokens=0,
                prompt_ns=0,
                answer_tokens=self._pieces,
                answer_ns=0,
            )
        usage, timings = self._last["usage"], self._last.get("timings", {})
        return Usage(
            done_reason=self._last["choices"][0]["finish_reason"],
            prompt_tokens=usage["prompt_tokens"],
            prompt_ns=int(timings.get("prompt_ms", 0) * _NS_PER_MS),
            answer_tokens=usage["completion_tokens"],
            answer_ns=int(timings.get("predicted_ms", 0) * _NS_PER_MS),
            cached_tokens=timings.get("cache_n"),
        )

    def _tell(self, text: str) -> bool:
        self.is_stopped = self.is_stopped or self._on_piece(text)
        return self.is_stopped


def _token(entry: dict[str, Any]) -> TokenLogprob:
    top = tuple(_token(other) for other in entry.get("top_logprobs", ()))
    return TokenLogprob(token=entry["token"], logprob=float(entry["logprob"]), top=top)


def _normalise(vector: list[float]) -> list[float]:
    length = math.hypot(*vector) or 1.0
    return [number / length for number in vector]


def to_refusal(error: dict[str, Any]) -> Refusal:
    """Convert an error response of llama.cpp."""
    return Refusal(int(error.get("code", 500)), str(error.get("message", "llama.cpp failed")))
