"""What every llama.cpp has in common, in the process or behind HTTP: prompts, slots, streams.

No two personas may ever meet in here. A request names the scale of every adapter, so none is left
over from another; and what a slot holds of its last prompt is used again for the same adapters
only: left to itself, llama.cpp would answer a request without adapter with another person's text.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.options import Options
from pipeline.hosting.server.shapes import TokenLogprob, Usage
from pipeline.hosting.server.slots import Slots

OnLogprobs = Callable[[Sequence[TokenLogprob]], None]
_NS_PER_MS = 1_000_000


class LlamaApi(ABC):
    """A loaded llama.cpp as a Runner; how it is reached is left to the subclass.

    An adapter is known to llama.cpp by its place among those that this one was started with;
    `adapters`, in that order, is the only record of it.
    """

    def __init__(self, adapters: Iterable[str], *, context: int, slots: int) -> None:
        """Take over a llama.cpp that answers; `adapters` are digests."""
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
        """Answer a prompt, in the calling thread.

        Args:
            adapters: the digests of those that apply, each in full.
            cuts: whether a prompt that is too long is cut or refused.
            schema: a JSON schema which the answer must follow.
            on_piece: gets each piece of text, and empty ones; returns true to stop.
            top_logprobs: how many of the likeliest tokens `on_logprobs` gets for each place.
            on_logprobs: gets the tokens of a piece before `on_piece` gets the piece.

        Raises:
            Refusal: as llama.cpp refused it; 400 for a prompt that is too long.
        """
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
        """Return the number of tokens of a prompt, its BOS among them."""
        return len(self._tokenize(text))

    def embed(self, texts: Sequence[str], dimensions: int | None) -> tuple[list[list[float]], int]:
        """Return one vector a text, each of length 1, and the number of tokens.

        Args:
            dimensions: how many of the vectors' numbers are kept; None: all.

        Raises:
            Refusal: as llama.cpp refused it.
        """
        answer = self._ask_embeddings({"input": list(texts)})
        rows = sorted(answer["data"], key=lambda row: int(row["index"]))
        vectors = [_normalise(row["embedding"][:dimensions]) for row in rows]
        return vectors, int(answer["usage"]["prompt_tokens"])

    @abstractmethod
    def fault(self) -> str | None:
        """Say why it answers no more, or None while it is well."""

    @abstractmethod
    def close(self) -> None:
        """Give its memory back."""

    @abstractmethod
    def _stream(self, request: dict[str, Any], chunks: "Chunks") -> None:
        """Complete a prompt, passing on each chunk until `chunks` says to stop."""

    @abstractmethod
    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask a route of llama.cpp's server; raises Refusal for an error."""

    @abstractmethod
    def _ask_embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        """Ask for embeddings, in OpenAI's shape; raises Refusal for an error."""

    def _scales(self, adapters: Sequence[str]) -> list[dict[str, Any]]:
        """Return the scale of every adapter, by its place."""
        if missing := set(adapters) - set(self.adapters):
            # Never in anybody else's voice, nor in the base's own.
            raise Refusal(500, f"{len(missing)} of the model's adapters are not loaded here")
        return [
            {"id": index, "scale": 1.0 if digest in adapters else 0.0}
            for index, digest in enumerate(self.adapters)
        ]

    def _fit(self, prompt: str, options: Options, *, cuts: bool) -> str | list[int]:
        """Return the prompt, or what is left of it, as tokens, if it is too long."""
        # llama.cpp puts the BOS before every prompt; a template may have brought its own.
        prompt = prompt.removeprefix(self._bos) if self._bos else prompt
        limit = min(options.num_ctx, self.context)
        # A token is at least a byte: most prompts need not be counted.
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
        # The beginning and the end; what is cut lies between. As in Ollama, half of what is not
        # kept at the beginning is left free for the answer.
        length = limit - max((limit - kept) // 2, 1)
        return tokens[:kept] + tokens[len(tokens) - (length - kept) :]

    def _tokenize(self, text: str) -> list[int]:
        request = {"content": text, "add_special": True, "parse_special": True}
        tokens: list[int] = self._post("/tokenize", request)["tokens"]
        return tokens

    def _ask_bos(self) -> str:
        """Return the BOS if llama.cpp will put one before each prompt, else nothing."""
        if not self._tokenize(""):
            return ""
        return str(self._post("/detokenize", {"tokens": self._tokenize("")})["content"])


class Chunks:
    """Takes in llama.cpp's stream; a callable, which says whether to stop."""

    def __init__(self, on_piece: Callable[[str], bool], on_logprobs: OnLogprobs | None) -> None:
        self._on_piece = on_piece
        self._on_logprobs = on_logprobs
        self._last: dict[str, Any] = {}
        self._error: dict[str, Any] | None = None
        self._pieces = 0
        self.is_stopped = False
        """Whether the asker stopped it, before the end."""

    def __call__(self, chunk: dict[str, Any]) -> bool:
        """Take in one chunk."""
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
        """Say whether the asker has left, while there is nothing to tell."""
        return self._tell("")

    def usage(self) -> Usage:
        """Return how it went; what a stopped answer cost is known by its pieces only.

        Raises:
            Refusal: llama.cpp's error, or 503 where the stream broke off.
        """
        if self._error is not None:
            raise refusal_of(self._error)
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


def refusal_of(error: dict[str, Any]) -> Refusal:
    """Return llama.cpp's error as ours."""
    return Refusal(int(error.get("code", 500)), str(error.get("message", "llama.cpp failed")))
