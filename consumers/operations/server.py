"""The operators' HTTP server: /metrics, /livez (also /healthz), /readyz."""

import json
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from config.metrics import Metrics
from config.settings import OpsSettings
from consumers.operations.health import Health

_STOP_CHECK_S = 0.1

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class OpsServer:
    """Serves the routes while the context is open."""

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
        """The port that it listens on."""
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
        """Log nothing: a probe comes every few seconds."""


def _report(start: StartResponse, faults: dict[str, str]) -> list[bytes]:
    if faults:
        return _write(start, "503 Service Unavailable", {"status": "failing", "faults": faults})
    return _write(start, "200 OK", {"status": "ok"})


def _write(start: StartResponse, status: str, body: dict[str, Any]) -> list[bytes]:
    start(status, [("content-type", "application/json; charset=utf-8")])
    return [json.dumps(body, ensure_ascii=False).encode() + b"\n"]
