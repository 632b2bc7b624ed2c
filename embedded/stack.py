"""The three embedded servers together: started and stopped in parallel."""

import sys
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from os import environ
from os.path import pathsep
from pathlib import Path
from types import TracebackType

import httpx

from embedded.kafka import KafkaServer
from embedded.mongodb import MongoDbServer
from embedded.process import ServerProcess, free_port, is_port_listened_on_by
from pipeline.hosting.server.profile import DEFAULT_PROFILE, ProfileName
from schemas.base import Frozen

_ANSWER_LIMIT_S = 2.0
# How often llama.cpp's OpenMP threads spin at a barrier before they sleep. Measured with SmolLM2 on
# two cores: during a training 25 tokens/s, with the default 2 to 21; on an idle machine 62, with
# the default 73.
_SPIN_COUNT = "1000"
_REPOSITORY = Path(__file__).resolve().parents[1]


class StackAddresses(Frozen):
    """The addresses of the servers."""

    kafka_bootstrap_servers: str
    mongodb_uri: str
    ollama_host: str

    def as_environment(self) -> dict[str, str]:
        """Return the environment variables that make the service use these servers."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka_bootstrap_servers,
            "MONGODB_URI": self.mongodb_uri,
            "OLLAMA_HOST": self.ollama_host,
        }


class OllamaServer:
    """The embedded Ollama on a free port, with its models in `<folder>/ollama`."""

    def __init__(self, folder: Path, profile: ProfileName = DEFAULT_PROFILE) -> None:
        """Prepare the server without starting it; it imitates the Ollama that `profile` names."""
        self.port = free_port()
        module = (sys.executable, "-m", "embedded.ollama")
        self.process = ServerProcess(
            "Ollama (embedded)",
            (
                *(*module, "--port", str(self.port), "--folder", str(folder / "ollama")),
                *("--profile", profile),
            ),
            log_path=folder / "logs" / "ollama.log",
            is_ready=self._is_ready,
            environment={"GOMP_SPINCOUNT": _SPIN_COUNT}
            | dict(environ)
            | {"PYTHONPATH": _python_path()},
        )

    @property
    def host(self) -> str:
        """The address for `ollama.Client`."""
        return f"http://127.0.0.1:{self.port}"

    def _is_ready(self, pid: int) -> bool:
        if not is_port_listened_on_by(pid, self.port):
            return False
        try:
            url = f"{self.host}/api/version"
            # Without the proxies of the environment: the server is on this machine.
            return httpx.get(url, timeout=_ANSWER_LIMIT_S, trust_env=False).is_success
        except httpx.HTTPError:
            return False


class EmbeddedStack:
    """A context manager that runs Kafka, MongoDB and Ollama, with data and logs in one folder."""

    def __init__(
        self,
        folder: Path,
        *,
        profile: ProfileName = DEFAULT_PROFILE,
        on_step: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare the stack without starting it.

        Args:
            folder: receives `mongodb/`, `ollama/` and `logs/`; kept on exit.
            profile: which Ollama the embedded one imitates.
            on_step: receives a short sentence at each step, from any thread.
        """
        self._folder = folder
        self._profile = profile
        self._on_step = on_step or (lambda _step: None)
        self._processes: list[ServerProcess] = []

    def __enter__(self) -> StackAddresses:
        """Start the servers; return when all three answer.

        Raises:
            EmbeddedServerFailed: one did not start; the others have been stopped again.
        """
        folder = self._folder.resolve()
        kafka, mongodb = KafkaServer(folder), MongoDbServer(folder)
        ollama = OllamaServer(folder, self._profile)
        self._processes = [kafka.process, mongodb.process, ollama.process]
        try:
            self._start_all()
        except BaseException:
            self._stop_all()
            raise
        return StackAddresses(
            kafka_bootstrap_servers=kafka.bootstrap_servers,
            mongodb_uri=mongodb.uri,
            ollama_host=ollama.host,
        )

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop_all()

    def poll(self) -> str | None:
        """Return how a server ended, or None while all run."""
        return next((death for p in self._processes if (death := p.poll())), None)

    def _start_all(self) -> None:
        for process in self._processes:
            self._on_step(f"Starting {process.name}")
            process.start()
        with ThreadPoolExecutor(len(self._processes)) as waiters:
            waiting = [waiters.submit(self._wait, process) for process in self._processes]
            try:
                _raise_first(waiting)
            except BaseException:
                # Stopping the other servers ends their waiters.
                self._stop_all()
                raise

    def _wait(self, process: ServerProcess) -> None:
        process.wait_until_ready()
        self._on_step(f"{process.name} is ready")

    def _stop_all(self) -> None:
        """Stop all servers in parallel, as each has its own time limit."""
        if self._processes:
            with ThreadPoolExecutor(len(self._processes)) as stoppers:
                list(stoppers.map(ServerProcess.stop, self._processes))


def _raise_first(waiting: list[Future[None]]) -> None:
    done, _ = wait(waiting, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()


def _python_path() -> str:
    """Return a PYTHONPATH with this repository, so that it need not be installed."""
    return pathsep.join(filter(None, (str(_REPOSITORY), environ.get("PYTHONPATH", ""))))
