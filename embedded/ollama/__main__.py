"""Run the embedded Ollama: `python -m embedded.ollama --port P --folder DIR`.

`--profile` names the Ollama that it imitates; OLLAMA_MAX_LOADED_MODELS limits the loaded models.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NoReturn

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedded.ollama.runner import LlamaRunner
from pipeline.hosting.server.app import build_app
from pipeline.hosting.server.models.store import Store
from pipeline.hosting.server.profile import (
    DEFAULT_MAX_RUNNERS,
    DEFAULT_PROFILE,
    PROFILES,
)
from pipeline.hosting.server.runners.capacity import Capacity
from pipeline.hosting.server.runners.runner import Runner
from pipeline.hosting.server.runners.scheduler import Scheduler
from pipeline.hosting.server.uvicorn_config import configure_server

_MAX_COMPLETIONS: Final = 32
_GRACE_S: Final = 1
_END_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_LOG = logging.getLogger("embedded.ollama")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Serve until SIGINT or SIGTERM."""
    arguments = _read_arguments(argv)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    # llama.cpp installs its own signal handlers with each load, which would replace uvicorn's. The
    # signals are blocked, so that no handler receives them, and a thread waits for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _END_SIGNALS)
    store = Store(arguments.folder)
    profile = PROFILES[arguments.profile]
    residency = Capacity(
        max_runners=_max_runners(os.environ),
        max_adapters=profile.max_adapters,
        # Ollama closes a runner before it loads the one that replaces it.
        overlaps=profile.max_adapters > 1,
    )
    load = LlamaRunner if profile.takes_adapters else _load_with_warning
    runners = Scheduler(store, load, residency, threads=arguments.threads)
    app = build_app(store, runners, ThreadPoolExecutor(_MAX_COMPLETIONS), profile)
    server = uvicorn.Server(
        configure_server(_LogRequests(app), grace_s=_GRACE_S, port=arguments.port)
    )
    threading.Thread(target=_end_on_signal, args=(server,), daemon=True).start()
    server.run()
    logging.shutdown()
    # Nothing is left to save: a file is complete before its request is answered. The threads of
    # llama.cpp may be in the middle of a long prompt, so they are not joined.
    os._exit(0 if server.started else 1)


def _load_with_warning(base: Path, adapters: Mapping[str, Path], **options: Any) -> Runner:
    """Load a runner and log Ollama's deprecation warning for each adapter."""
    for digest in adapters:
        _LOG.warning("LoRA adapters are deprecated and will not be served for ever: %s", digest)
    return LlamaRunner(base, adapters, **options)


def _max_runners(environment: Mapping[str, str]) -> int:
    """Return how many models may be loaded at once; by default as many as in Ollama."""
    text = environment.get("OLLAMA_MAX_LOADED_MODELS", "")
    return (int(text) if text.isdecimal() else 0) or DEFAULT_MAX_RUNNERS


def _end_on_signal(server: uvicorn.Server) -> None:
    signal.sigwait(_END_SIGNALS)
    server.should_exit = True


def _read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m embedded.ollama")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--profile", choices=tuple(PROFILES), default=DEFAULT_PROFILE)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args(sys.argv[1:] if argv is None else argv)


class _LogRequests:
    """Logs path, status and duration of each request, but no bodies."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.monotonic(), 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            took_ms = (time.monotonic() - began) * 1000
            _LOG.info("%s %s %s %.1f ms", scope["method"], scope["path"], status, took_ms)


if __name__ == "__main__":
    main()
