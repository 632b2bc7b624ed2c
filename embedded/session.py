"""The embedded stack with an installed base model, and the settings to run the service on it."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from pydantic import SecretStr

from config.settings import ChatSettings, MongoSettings
from embedded.bases import install_base
from embedded.kafka import CHAT_FETCH_WAIT_MS, SESSION_TIMEOUT_MS
from embedded.process import EmbeddedServerFailed, ServerProcess, free_port
from embedded.stack import EmbeddedStack, StackAddresses
from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import open_client

DATABASE = "heirloom"
_WATCH_S = 0.5


class StackSession:
    """A context manager: servers are running, the base model is installed."""

    def __init__(self, folder: Path, base: str, on_step: Callable[[str], None]) -> None:
        self._folder = folder.resolve()
        self._base = base
        self._on_step = on_step
        self._stack = EmbeddedStack(self._folder, on_step=on_step)
        self._addresses: StackAddresses | None = None

    def __enter__(self) -> Self:
        self._on_step(f"Installing base model {self._base}")
        install_base(self._base, model_dir())
        self._addresses = self._stack.__enter__()
        try:
            _create_indexes(self._addresses.mongodb_uri)
        except BaseException:
            self._stack.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(exc_type, exc, traceback)

    def environment(self) -> dict[str, str]:
        """Return all settings that `modelserver run` and a client need to use this stack."""
        assert self._addresses is not None
        return self._addresses.as_environment() | {
            "MONGODB_DATABASE": DATABASE,
            "MODELSERVER_KAFKA__SESSION_TIMEOUT_MS": str(SESSION_TIMEOUT_MS),
            "MODELSERVER_KAFKA__CHAT_FETCH_WAIT_MS": str(CHAT_FETCH_WAIT_MS),
            "MODELSERVER_CURRENT_MODEL": self._base,
            "MODELSERVER_MODEL_DIR": str(model_dir()),
            "MODELSERVER_DATA_DIR": str(self._folder / "data"),
        }

    def poll(self) -> str | None:
        """Return how a server ended, or None while all run."""
        return self._stack.poll()

    def wait(self, stop: threading.Event) -> None:
        """Block until `stop` is set.

        Raises:
            EmbeddedServerFailed: a server ended by itself.
        """
        while not stop.wait(_WATCH_S):
            if death := self.poll():
                raise EmbeddedServerFailed(death)


@contextmanager
def running_service(settings: Mapping[str, str], log_path: Path) -> Iterator[ServerProcess]:
    """Run `modelserver run` with these settings in its own process while the context is open."""
    port = free_port()
    service = ServerProcess(
        "ModelServer",
        (sys.executable, "-m", "cli.main", "run"),
        log_path=log_path,
        is_ready=lambda pid: _is_ready(port),
        environment=dict(os.environ) | dict(settings) | {"MODELSERVER_OPS__PORT": str(port)},
        stop_limit_s=30.0,
    )
    with service:
        yield service


def _create_indexes(uri: str) -> None:
    """Create all indexes before the first write.

    SecantusDB 0.7 hangs if an index is created while another client writes to the collection.
    Creating an index that exists is harmless.
    """
    settings = MongoSettings(uri=SecretStr(uri), database=DATABASE)
    with open_client(settings) as client:
        ensure_indexes(client[DATABASE], ChatSettings().dedup_hours)


def _is_ready(port: int) -> bool:
    try:
        url = f"http://127.0.0.1:{port}/readyz"
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def model_dir() -> Path:
    """Return the folder that keeps base models between runs, in the user's XDG cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "heirloom-modelserver" / "models"
