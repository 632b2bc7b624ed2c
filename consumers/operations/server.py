"""The operators' server: /metrics, /livez, /readyz."""

import json
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from config.metrics import Metrics
from config.settings import OpsSettings
from schemas.errors import ModelServerError

_CACHE_S = 2.0
_STOP_CHECK_S = 0.1

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Check = Callable[[], None]


class Health:
    """What liveness and readiness rest on."""

    def __init__(self, stale_after_s: float) -> None:
        """A loop that has not polled for `stale_after_s` is not alive."""
        self._stale_after_s = stale_after_s
        self._polls: dict[str, Callable[[], float]] = {}
        self._assigned: dict[str, Callable[[], bool]] = {}
        self._refused: dict[str, Callable[[], str | None]] = {}
        self._threads: list[threading.Thread] = []
        self._checks: dict[str, Check] = {}
        self._cached: tuple[float, dict[str, str]] = (0.0, {})
        self._lock = threading.Lock()

    def watch_loop(
        self,
        role: str,
        last_poll: Callable[[], float],
        assigned: Callable[[], bool],
        refused: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Watch a consumer loop; `last_poll` in unix seconds, `refused` what Kafka forbids it."""
        self._polls[role] = last_poll
        self._assigned[role] = assigned
        self._refused[role] = refused

    def watch_thread(self, thread: threading.Thread) -> None:
        """Watch a thread that, once it is started, must run as long as the program does."""
        self._threads.append(thread)

    def require(self, name: str, check: Check) -> None:
        """Require a dependency; `check` raises a ModelServerError when it is down."""
        self._checks[name] = check

    def faults_of_life(self) -> dict[str, str]:
        """Return the threads that have ended and the loops that have stopped polling."""
        now = time.time()
        ended = {
            thread.name: "its thread has ended"
            for thread in self._threads
            if thread.ident is not None and not thread.is_alive()
        }
        stale = {
            role: f"no poll for {now - poll():.0f} s"
            for role, poll in self._polls.items()
            if now - poll() > self._stale_after_s
        }
        return stale | ended

    def faults_of_readiness(self) -> dict[str, str]:
        """Return what is not ready; dependencies are asked at most every two seconds."""
        faults = {
            role: "not assigned" for role, assigned in self._assigned.items() if not assigned()
        }
        faults |= {role: why for role, refused in self._refused.items() if (why := refused())}
        with self._lock:
            asked_at, known = self._cached
            if time.monotonic() - asked_at > _CACHE_S:
                known = {name: fault for name, c in self._checks.items() if (fault := _ask(c))}
                self._cached = (time.monotonic(), known)
        return faults | known


class OpsServer:
    """Serves the three routes while the context is open."""

    def __init__(self, settings: OpsSettings, metrics: Metrics, health: Health) -> None:
        self._metrics = make_wsgi_app(metrics.registry)
        self._health = health
        self._server = make_server(
            settings.host, settings.port, self._answer, _Server, _QuietHandler
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_STOP_CHECK_S,), name="ops", daemon=True
        )

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.server_port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                found: Iterable[bytes] = self._metrics(environ, start)
                return found
            case "/livez" | "/healthz":
                return _report(start, self._health.faults_of_life())
            case "/readyz":
                return _report(start, self._health.faults_of_readiness())
            case _:
                return _write(start, "404 Not Found", {"error": "no such page"})


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A probe every few seconds is no news."""


def _report(start: StartResponse, faults: dict[str, str]) -> list[bytes]:
    if faults:
        return _write(start, "503 Service Unavailable", {"status": "failing", "faults": faults})
    return _write(start, "200 OK", {"status": "ok"})


def _write(start: StartResponse, status: str, body: dict[str, Any]) -> list[bytes]:
    start(status, [("content-type", "application/json; charset=utf-8")])
    return [json.dumps(body, ensure_ascii=False).encode() + b"\n"]


def _ask(check: Check) -> str | None:
    try:
        check()
    except ModelServerError as error:
        return error.message
    return None
