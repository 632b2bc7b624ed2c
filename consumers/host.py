"""The role `host`: Ollama's API over `llama-server` processes; many personas share one base.

It needs neither Kafka nor MongoDB. /metrics, /livez and /readyz are served on the same port as
Ollama's paths. No prompt and no answer is logged.
"""

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import ClassVar, Final

import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from config.metrics import Metrics
from config.settings import HostSettings, Settings
from pipeline.hosting.llama_server import LlamaServers, find_llama_server
from pipeline.hosting.server.app import build_app
from pipeline.hosting.server.models.store import Store
from pipeline.hosting.server.profile import PROFILES
from pipeline.hosting.server.runners.capacity import Capacity
from pipeline.hosting.server.runners.load_report import LoadReport
from pipeline.hosting.server.runners.scheduler import Scheduler
from pipeline.hosting.server.uvicorn_config import configure_server
from schemas.errors import ConfigurationError, ModelServerError

FOLDER: Final = "host"
_PROFILE: Final = "llama-server"
# Threads for completions, in progress or waiting; most of them only wait.
_MAX_COMPLETIONS: Final = 512
_START_CHECK_S: Final = 0.02

log = structlog.get_logger(__name__)


class HostEnded(ModelServerError):
    """The host's server ended by itself; its log has the reason. Start it again."""

    code: ClassVar[str] = "host_ended"


class HostServer:
    """The serving role; runs while the context is open."""

    def __init__(self, settings: Settings, metrics: Metrics, stop: threading.Event) -> None:
        """Acquire the port, the models' folder and the program, without serving yet.

        Args:
            settings: the settings of the service.
            metrics: counts loads and adapters.
            stop: is set if the server ends by itself.

        Raises:
            ConfigurationError: `llama-server` is missing or too old, the port is in use, or
                another host uses the folder.
        """
        host = settings.host
        command = find_llama_server(host.command)
        self._stop = stop
        self._has_ended = False
        self._resources = ExitStack()
        with ExitStack() as opened:
            self._socket = opened.enter_context(_listen(host))
            store = _open_store(settings)
            opened.callback(store.close)
            logs = settings.data_dir / FOLDER / "logs"
            servers = LlamaServers(command, logs.absolute(), start_limit_s=host.start_s)
            opened.callback(servers.close)
            observer = _LoadObserver(metrics)
            self._scheduler = Scheduler(
                store,
                servers,
                _capacity(host),
                threads=host.threads or len(os.sched_getaffinity(0)),
                on_load=observer.note,
            )
            metrics.host_adapters.set_function(self._scheduler.loaded_adapters)
            executor = ThreadPoolExecutor(_MAX_COMPLETIONS, thread_name_prefix="answer")
            opened.callback(executor.shutdown, wait=False, cancel_futures=True)
            opened.callback(self._scheduler.close)
            self._resources = opened.pop_all()
        api = build_app(store, self._scheduler, executor, PROFILES[_PROFILE])
        app = _with_operations(api, metrics, observer)
        self._server = uvicorn.Server(configure_server(app, grace_s=host.drain_s))
        self._thread = threading.Thread(target=self._serve, name="host")

    @property
    def address(self) -> str:
        """The address, in the form of OLLAMA_HOST."""
        name, port = self._socket.getsockname()[:2]
        return f"http://{name}:{port}"

    def start(self) -> None:
        """Start serving; return when the server answers.

        Raises:
            HostEnded: the server ended before it answered.
        """
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._thread.join(_START_CHECK_S)
        self.check()
        log.info("host.started", address=self.address)

    def check(self) -> None:
        """Raise HostEnded if the server ended by itself."""
        if self._has_ended:
            raise HostEnded

    def close(self) -> None:
        """Accept no new requests, finish those in flight, end the llama-server processes."""
        log.info("host.stopping")
        self._server.should_exit = True
        self._thread.join()
        self._resources.close()
        log.info("host.stopped")

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except Exception:  # thread boundary: only the log can report it
            log.exception("host.failed")
        finally:
            if not self._stop.is_set():
                self._has_ended = True
                log.error("host.ended")
                self._stop.set()


class _LoadObserver:
    """Logs and counts each load of a llama-server, without the personas' names."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.down_reason: str | None = None
        """Why the last load of a base failed; None if it succeeded or there was none yet."""

    def note(self, load: LoadReport) -> None:
        """Record one load."""
        self.down_reason = load.error if load.is_down else None
        self._metrics.host_loads.labels("failed" if load.error else "loaded").inc()
        self._metrics.host_load_seconds.observe(load.seconds)
        told = {"base": load.base, "adapters": load.adapters, "seconds": round(load.seconds, 2)}
        if load.error:
            log.error("host.load_failed", reason=load.error, **told)
        else:
            log.info("host.loaded", **told)


@contextmanager
def running_host(settings: Settings, metrics: Metrics, stop: threading.Event) -> Iterator[str]:
    """Run the role while the context is open; yields its address.

    Raises:
        HostEnded: the server ended by itself. Raised when the context ends, unless it raises
            another error.
    """
    server = HostServer(settings, metrics, stop)
    try:
        server.start()
        yield server.address
    finally:
        stop.set()
        server.close()
    server.check()


def _capacity(host: HostSettings) -> Capacity:
    return Capacity(
        max_runners=host.max_bases,
        max_adapters=host.max_adapters,
        drain_s=host.drain_s,
        slots=host.slots,
        context=host.num_ctx,
        max_context=host.num_ctx,
    )


def _listen(host: HostSettings) -> socket.socket:
    try:
        return socket.create_server((host.bind, host.port))
    except OSError as error:
        raise ConfigurationError(
            f"MODELSERVER_HOST__BIND and …__PORT: {host.bind}:{host.port} cannot be listened on "
            f"({error.strerror}); stop what uses it, or choose another"
        ) from error


def _open_store(settings: Settings) -> Store:
    folder = settings.data_dir / FOLDER / "models"
    try:
        return Store(folder)
    except BlockingIOError as error:
        raise ConfigurationError(
            f"{folder} is in use by another host; give this one its own MODELSERVER_DATA_DIR"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{folder} cannot be used: {error}") from error


def _with_operations(api: Starlette, metrics: Metrics, observer: _LoadObserver) -> Starlette:
    async def show_metrics(_request: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def say_ok(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def say_ready(_request: Request) -> Response:
        if (reason := observer.down_reason) is not None:
            return JSONResponse({"status": "unavailable", "reason": reason}, 503)
        return JSONResponse({"status": "ok"})

    probes = [Route(path, say_ok) for path in ("/livez", "/healthz")]
    probes.append(Route("/readyz", say_ready))
    return Starlette(routes=[Route("/metrics", show_metrics), *probes, Mount("/", api)])
