"""The role `host`: Ollama's API over `llama-server` processes, one base shared by many personas.

Needs neither Kafka nor MongoDB. Beside Ollama's paths it answers /metrics, /livez and /readyz on
the same port. No prompt and no answer is logged.
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
# Each answer that is made or waited for has a thread; most of them only wait.
_ANSWERS_AT_ONCE: Final = 512
_START_CHECK_S: Final = 0.02

log = structlog.get_logger(__name__)


class HostEnded(ModelServerError):
    """The host's server ended by itself; its log has the reason. Start it again."""

    code: ClassVar[str] = "host_ended"


class HostServer:
    """The serving role; runs while the context is open."""

    def __init__(self, settings: Settings, metrics: Metrics, stop: threading.Event) -> None:
        """Prepare it; `stop` is set if it ends by itself.

        Raises:
            ConfigurationError: `llama-server` is not there or too old, the port is in use, or the
                folder is another host's.
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
            watch = _Watch(metrics)
            self._runners = Scheduler(
                store,
                servers,
                _residency(host),
                threads=host.threads or len(os.sched_getaffinity(0)),
                on_load=watch.note,
            )
            metrics.host_adapters.set_function(self._runners.loaded_adapters)
            executor = ThreadPoolExecutor(_ANSWERS_AT_ONCE, thread_name_prefix="answer")
            opened.callback(executor.shutdown, wait=False, cancel_futures=True)
            opened.callback(self._runners.close)
            self._resources = opened.pop_all()
        api = build_app(store, self._runners, executor, PROFILES[_PROFILE])
        app = _with_operations(api, metrics, watch)
        self._server = uvicorn.Server(configure_server(app, grace_s=host.drain_s))
        self._thread = threading.Thread(target=self._serve, name="host")

    @property
    def address(self) -> str:
        """Where it listens, as OLLAMA_HOST has it."""
        name, port = self._socket.getsockname()[:2]
        return f"http://{name}:{port}"

    def start(self) -> None:
        """Listen, and return when it answers.

        Raises:
            HostEnded: it ended before it did.
        """
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._thread.join(_START_CHECK_S)
        self.check()
        log.info("host.started", address=self.address)

    def check(self) -> None:
        """Raise HostEnded if it ended by itself."""
        if self._has_ended:
            raise HostEnded

    def close(self) -> None:
        """Accept nothing more, finish what is under way, end the llama-servers."""
        log.info("host.stopping")
        self._server.should_exit = True
        self._thread.join()
        self._resources.close()
        log.info("host.stopped")

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except Exception:  # the thread's edge: the log is all that hears of it
            log.exception("host.failed")
        finally:
            if not self._stop.is_set():
                self._has_ended = True
                log.error("host.ended")
                self._stop.set()


class _Watch:
    """Tells of each start of llama-server: the log and the metrics. Never a persona's name."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.down_reason: str | None = None
        """Why the last start could not load its base; None: it could, or there was none."""

    def note(self, load: LoadReport) -> None:
        """Tell of one start."""
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
    """Run the role while the context is open; gives its address.

    Raises:
        HostEnded: it ended before it was told to; at the end of the context, if nothing else is
            raised there.
    """
    server = HostServer(settings, metrics, stop)
    try:
        server.start()
        yield server.address
    finally:
        stop.set()
        server.close()
    server.check()


def _residency(host: HostSettings) -> Capacity:
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


def _with_operations(api: Starlette, metrics: Metrics, watch: _Watch) -> Starlette:
    async def show_metrics(_request: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def say_ok(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def say_ready(_request: Request) -> Response:
        if (reason := watch.down_reason) is not None:
            return JSONResponse({"status": "unavailable", "reason": reason}, 503)
        return JSONResponse({"status": "ok"})

    probes = [Route(path, say_ok) for path in ("/livez", "/healthz")]
    probes.append(Route("/readyz", say_ready))
    return Starlette(routes=[Route("/metrics", show_metrics), *probes, Mount("/", api)])
