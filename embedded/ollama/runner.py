"""A llama.cpp in this process (xllamacpp): a base model with the adapters loaded with it."""

import json
import secrets
from collections.abc import Iterable, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Cython, without stubs.
import xllamacpp

from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.runners.llama_api import Chunks, LlamaApi, to_refusal

_HTTP_LIMIT_S = 60.0
_LAST_POSITION_POOLING = "LLAMA_POOLING_TYPE_LAST"
_QUIET = 0


class LlamaRunner(LlamaApi):
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
        # llama.cpp listens on a port of its own choice; the key makes it ours alone.
        self._api_key = secrets.token_hex(16)
        parameters = _parameters(base, adapters.values(), threads)
        parameters.n_ctx = context * slots
        parameters.n_parallel = slots
        parameters.api_keys = [self._api_key]
        if embeds:
            parameters.embedding = True
        if pools_last_token:
            parameters.pooling_type = getattr(xllamacpp.llama_pooling_type, _LAST_POSITION_POOLING)
        try:
            self._server: Any = xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise Refusal(500, f"llama.cpp cannot load the model: {error}") from error
        super().__init__(adapters, context=context, slots=slots)

    def fault(self) -> str | None:
        """Answer None: it ends with this process and not before."""
        return None

    def close(self) -> None:
        """Let go of llama.cpp: its memory goes with the last request that is under way."""
        self._server = None

    def _loaded(self) -> Any:
        """Return llama.cpp, for one request.

        Raises:
            Refusal: 503, it was closed.
        """
        server = self._server
        if server is None:
            raise Refusal(503, "the model was unloaded before it answered; ask again")
        return server

    def _stream(self, request: dict[str, Any], chunks: Chunks) -> None:
        self._loaded().handle_completions(request, chunks)

    def _ask_embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._loaded().handle_embeddings(body)
        if "error" in answer:
            raise to_refusal(answer["error"])
        return answer

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        server = self._loaded()
        connection = HTTPConnection(
            urlsplit(server.listening_address).netloc, timeout=_HTTP_LIMIT_S
        )
        try:
            headers = {"Authorization": f"Bearer {self._api_key}"}
            connection.request("POST", path, json.dumps(body), headers)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if "error" in answer:
            raise to_refusal(answer["error"])
        return answer


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
