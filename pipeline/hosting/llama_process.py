"""The process of one `llama-server`, the connection to it, and its log."""

import os
import secrets
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx

from pipeline.hosting.server.failures import Refusal
from pipeline.processes.server_process import ServerProcess, ServerProcessFailed

CALL_LIMIT_S: Final = 60.0
_URL: Final = "http://llama-server"
_READY_LIMIT_S = 2.0
# It says something every second while it answers, be it only that it lives.
_SILENCE_LIMIT_S = 60.0
_STOP_LIMIT_S = 5.0
# How long its threads spin at a barrier before they sleep: by default so long that beside other
# work on the same cores it hardly answers at all. A value of the environment's own stays.
_SPIN_COUNT: Final = "1000"
# As many connections as there are requests: they wait for a slot before they ask.
_ANY_NUMBER: Final = httpx.Limits(max_connections=None)


class LogNumbers:
    """Numbers for log files: used again, the one free longest first, never by two at once."""

    def __init__(self, usual: int) -> None:
        """`usual` numbers are in turn; there are more only while more are in use."""
        self._lock = threading.Lock()
        self._free = deque(range(usual))
        self._next = usual

    def acquire(self) -> int:
        """Return a number that nobody has."""
        with self._lock:
            if self._free:
                return self._free.popleft()
            self._next += 1
            return self._next - 1

    def release(self, number: int) -> None:
        """Let the number be used again."""
        with self._lock:
            self._free.append(number)


class LlamaProcess:
    """The process, its socket and the connection to it."""

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
        """Prepare it, to run in `folder`; its socket lies in `sockets`, where only we come."""
        key = secrets.token_hex(16)
        self._socket = sockets / f"{secrets.token_hex(8)}.sock"
        self._on_stop = on_stop
        self.client = httpx.Client(
            base_url=_URL,
            headers={"Authorization": f"Bearer {key}"},
            transport=httpx.HTTPTransport(uds=str(self._socket), limits=_ANY_NUMBER),
            timeout=httpx.Timeout(_SILENCE_LIMIT_S),
        )
        self.server = ServerProcess(
            "llama-server",
            [*argv, "--host", str(self._socket)],
            log_path=log_path,
            is_ready=self._is_ready,
            # The key is not in the command line, where everybody on this machine could read it.
            environment={"GOMP_SPINCOUNT": _SPIN_COUNT} | os.environ | {"LLAMA_API_KEY": key},
            folder=folder,
            start_limit_s=start_limit_s,
            stop_limit_s=_STOP_LIMIT_S,
        )

    def start(self, adapters: list[str]) -> None:
        """Start it, and return when it answers and has these adapters in this order.

        Raises:
            Refusal: 500, it does not.
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
        """End it and leave nothing behind but its log."""
        self.server.stop()
        self.client.close()
        self._socket.unlink(missing_ok=True)
        self._on_stop()

    def _is_ready(self, _pid: int) -> bool:
        with suppress(httpx.HTTPError):
            return self.client.get("/health", timeout=_READY_LIMIT_S).is_success
        return False
