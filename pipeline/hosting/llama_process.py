"""One `llama-server` process, the connection to it, and its log file."""

import os
import secrets
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx

from pipeline.hosting.server.errors import Refusal
from pipeline.processes.server_process import ServerProcess, ServerProcessFailed

CALL_LIMIT_S: Final = 60.0
_URL: Final = "http://llama-server"
_READY_LIMIT_S = 2.0
# The server sends at least a ping every second while it answers.
_SILENCE_LIMIT_S = 60.0
_STOP_LIMIT_S = 5.0
# How often OpenMP threads spin at a barrier before they sleep. With the default, llama-server
# hardly answers beside other work on the same cores. A value in the environment takes precedence.
_SPIN_COUNT: Final = "1000"
# Unlimited: requests wait for a slot before they connect.
_NO_LIMITS: Final = httpx.Limits(max_connections=None)


class LogNumbers:
    """Numbers for log files, reused in rotation, never by two processes at once."""

    def __init__(self, usual: int) -> None:
        """Rotate `usual` numbers; more are used only while more processes run."""
        self._lock = threading.Lock()
        self._free = deque(range(usual))
        self._next = usual

    def take(self) -> int:
        """Return an unused number, the one that was released first."""
        with self._lock:
            if self._free:
                return self._free.popleft()
            self._next += 1
            return self._next - 1

    def release(self, number: int) -> None:
        """Allow a number to be reused."""
        with self._lock:
            self._free.append(number)


class LlamaProcess:
    """The process, its Unix socket and an HTTP client on it."""

    def __init__(
        self,
        argv: list[str],
        folder: Path,
        sockets: Path,
        *,
        log_path: Path,
        start_limit_s: float,
        on_stop: Callable[[], object],
    ) -> None:
        """Prepare the process without starting it.

        Args:
            argv: the command line without the address.
            folder: the working directory.
            sockets: a folder that only this user can enter; gets the socket.
            log_path: the log file.
            start_limit_s: how long the process may take to become ready.
            on_stop: called when the process has ended.
        """
        key = secrets.token_hex(16)
        self._socket = sockets / f"{secrets.token_hex(8)}.sock"
        self._on_stop = on_stop
        self.client = httpx.Client(
            base_url=_URL,
            headers={"Authorization": f"Bearer {key}"},
            transport=httpx.HTTPTransport(uds=str(self._socket), limits=_NO_LIMITS),
            timeout=httpx.Timeout(_SILENCE_LIMIT_S),
        )
        self.server = ServerProcess(
            "llama-server",
            [*argv, "--host", str(self._socket)],
            log_path=log_path,
            is_ready=self._is_ready,
            # Not on the command line, which every user of the machine can read.
            environment={"GOMP_SPINCOUNT": _SPIN_COUNT} | os.environ | {"LLAMA_API_KEY": key},
            folder=folder,
            start_limit_s=start_limit_s,
            stop_limit_s=_STOP_LIMIT_S,
        )

    def start(self, adapters: list[str]) -> None:
        """Start the process; return when it is ready and has these adapters in this order.

        Raises:
            Refusal: 500, it did not start or loaded other adapters.
        """
        try:
            self.server.start()
            self.server.wait_until_ready()
            loaded = self.client.get("/lora-adapters", timeout=CALL_LIMIT_S).json()
        except (ServerProcessFailed, httpx.HTTPError) as error:
            raise Refusal(500, f"llama-server cannot load the model: {error}") from error
        found = [(each["id"], each["path"]) for each in loaded]
        if found != list(enumerate(adapters)):
            raise Refusal(500, "llama-server loaded other adapters than it was told; not used")

    def stop(self) -> None:
        """End the process; only its log stays."""
        self.server.stop()
        self.client.close()
        self._socket.unlink(missing_ok=True)
        self._on_stop()

    def _is_ready(self, _pid: int) -> bool:
        with suppress(httpx.HTTPError):
            return self.client.get("/health", timeout=_READY_LIMIT_S).is_success
        return False
