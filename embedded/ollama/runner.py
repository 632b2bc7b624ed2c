"""A runner that is llama.cpp in this process (xllamacpp)."""

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
    """A runner over xllamacpp; the class itself is a LoadRunner."""

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
        """Load a base and its adapters."""
        # llama.cpp listens on a random port; the key keeps other users of the machine out.
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
        """Return None: llama.cpp ends only with this process."""
        return None

    def close(self) -> None:
        """Release llama.cpp; its memory is freed when the last request in flight ends."""
        self._server = None

    def _loaded(self) -> Any:
        """Return llama.cpp.

        Raises:
            Refusal: 503, the runner has been closed.
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
    """Return the parameters that completions and embeddings share."""
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
    # Only a slot's own last prompt may be reused (tested in tests/contract).
    parameters.cache_prompt = True
    parameters.cache_ram_mib = 0
    parameters.cache_idle_slots = False
    parameters.n_cache_reuse = 0
    parameters.n_ctx_checkpoints = 0
    # A sliding window drops the prompt's beginning, after which nothing could be reused.
    parameters.swa_full = True
    return parameters
