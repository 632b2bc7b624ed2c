"""One llama.cpp: a base model with the adapters that were loaded with it.

No two personas may ever meet in here. A request names the scale of every adapter, so none is left
over from another; and what a slot holds of its last prompt is used again for the same adapters
only: left to itself, llama.cpp would answer a request without adapter with another person's text.
"""

import json
import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Cython, without stubs.
import xllamacpp

from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.options import Options
from pipeline.hosting.server.shapes import TokenLogprob, Usage
from pipeline.hosting.server.slots import Slots

OnLogprobs = Callable[[Sequence[TokenLogprob]], None]
_NS_PER_MS = 1_000_000
_HTTP_LIMIT_S = 60.0
_LAST_POSITION_POOLING = "LLAMA_POOLING_TYPE_LAST"
_QUIET = 0


class LlamaRunner:
    """A loaded llama.cpp; immutable: another set of adapters is another runner."""

    def __init__(
        self,
        base: Path,
        adapters: Mapping[str, Path],
        *,
        context: int,
        slots: int,
        threads: int,
        embeds: bool = False,
        pools_last_token: bool = False,
    ) -> None:
        """Load a base and its adapters (digest → file).

        Args:
            context: tokens a request may have, prompt and answer together.
            slots: how many requests are worked on at once.
            embeds: for embeddings and nothing else.
            pools_last_token: the base does not say how its tokens become one vector.

        Raises:
            Refusal: 500, llama.cpp cannot load them.
        """
        self.context = context
        self.adapters = tuple(adapters)
        # llama.cpp listens on a port of its own choice; the key makes it ours alone.
        self._api_key = secrets.token_hex(16)
        parameters = _parameters(base, adapters.values(), threads)
        self._slots = Slots(slots)
        parameters.n_ctx = context * slots
        parameters.n_parallel = slots
        parameters.api_keys = [self._api_key]
        if embeds:
            parameters.embedding = True
        if pools_last_token:
            parameters.pooling_type = getattr(xllamacpp.llama_pooling_type, _LAST_POSITION_POOLING)
        try:
            self._server = xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise Refusal(500, f"llama.cpp cannot load the model: {error}") from error
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
            on_piece: gets each piece of text; returns true to stop.
            top_logprobs: how many of the likeliest tokens `on_logprobs` gets for each place.
            on_logprobs: gets the tokens of a piece before `on_piece` gets the piece.

        Raises:
            Refusal: as llama.cpp refused it; 400 for a prompt that is too long.
        """
        request: dict[str, Any] = {
            **options.as_llama(),
            "prompt": self._fit(prompt, options, cuts=cuts),
            "lora": [
                {"id": index, "scale": 1.0 if digest in adapters else 0.0}
                for index, digest in enumerate(self.adapters)
            ],
            "stream": True,
        }
        if schema is not None:
            request["json_schema"] = schema
        if on_logprobs is not None:
            request["n_probs"] = max(top_logprobs, 1)
        chunks = _Chunks(on_piece, on_logprobs)
        with self._slots.take(adapters) as (slot, is_known):
            self._server.handle_completions(
                request | {"id_slot": slot, "cache_prompt": is_known}, chunks
            )
        return chunks.usage()

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a prompt, its BOS among them."""
        return len(self._tokenize(text))

    def close(self) -> None:
        """Do nothing: the memory goes with the last reference."""

    def embed(self, texts: Sequence[str], dimensions: int | None) -> tuple[list[list[float]], int]:
        """Return one vector a text, each of length 1, and the number of tokens.

        Args:
            dimensions: how many of the vectors' numbers are kept; None: all.

        Raises:
            Refusal: as llama.cpp refused it.
        """
        answer = self._server.handle_embeddings({"input": list(texts)})
        if "error" in answer:
            raise _refusal(answer["error"])
        rows = sorted(answer["data"], key=lambda row: int(row["index"]))
        vectors = [_normalise(row["embedding"][:dimensions]) for row in rows]
        return vectors, int(answer["usage"]["prompt_tokens"])

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

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        connection = HTTPConnection(
            urlsplit(self._server.listening_address).netloc, timeout=_HTTP_LIMIT_S
        )
        try:
            headers = {"Authorization": f"Bearer {self._api_key}"}
            connection.request("POST", path, json.dumps(body), headers)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if "error" in answer:
            raise _refusal(answer["error"])
        return answer


class _Chunks:
    """Takes in llama.cpp's stream; a callable, which says whether to stop."""

    def __init__(self, on_piece: Callable[[str], bool], on_logprobs: OnLogprobs | None) -> None:
        self._on_piece = on_piece
        self._on_logprobs = on_logprobs
        self._last: dict[str, Any] = {}
        self._error: dict[str, Any] | None = None
        self._pieces = 0

    def __call__(self, chunk: dict[str, Any]) -> bool:
        if "choices" not in chunk:
            self._error = chunk.get("error", chunk)
            return True
        choice = chunk["choices"][0]
        if choice["finish_reason"] is not None:
            self._last = chunk
        self._pieces += 1
        if self._on_logprobs is not None and choice.get("logprobs"):
            self._on_logprobs([_token(entry) for entry in choice["logprobs"]["content"]])
        return self._on_piece(choice["text"]) if choice["text"] else False

    def usage(self) -> Usage:
        """Return how it went; what a stopped answer cost is known by its pieces only."""
        if self._error is not None:
            raise _refusal(self._error)
        if not self._last:
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


def _token(entry: dict[str, Any]) -> TokenLogprob:
    top = tuple(_token(other) for other in entry.get("top_logprobs", ()))
    return TokenLogprob(token=entry["token"], logprob=float(entry["logprob"]), top=top)


def _normalise(vector: list[float]) -> list[float]:
    length = math.hypot(*vector) or 1.0
    return [number / length for number in vector]


def _parameters(base: Path, adapters: Iterable[Path], threads: int) -> Any:
    """Return what llama.cpp is told whatever it is for."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(base)
    parameters.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(str(path), 1.0) for path in adapters
    ]
    parameters.lora_init_without_apply = True
    parameters.kv_unified = False
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.n_threads_http = 1
    parameters.ui = False
    parameters.verbosity = _QUIET
    parameters.fit_params = False
    # A slot's own last prompt, and nothing else, may be gone on from (shown by tests/contract).
    parameters.cache_prompt = True
    parameters.cache_ram_mib = 0
    parameters.cache_idle_slots = False
    parameters.n_cache_reuse = 0
    parameters.n_ctx_checkpoints = 0
    # A sliding window forgets what a prompt begins with: with it nothing could be gone on from.
    parameters.swa_full = True
    return parameters


def _refusal(error: dict[str, Any]) -> Refusal:
    return Refusal(int(error.get("code", 500)), str(error.get("message", "llama.cpp failed")))
