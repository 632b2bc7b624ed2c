"""One `llama-server` process: started, checked, asked, ended.

It listens on a socket in a folder that is this process's alone, and wants a key that was drawn for
it: a request can reach no other process, and nobody else reaches this one. It dies with us. Its
log has warnings and errors, and no prompts.
"""

import itertools
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx

from pipeline.child_process import ServerProcess, ServerProcessFailed
from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.llama import Chunks, LlamaApi, refusal_of
from schemas.errors import ConfigurationError

_URL: Final = "http://llama-server"
_READY_LIMIT_S = 2.0
_CALL_LIMIT_S = 60.0
# A stream says something every second, be it only that it lives.
_PING_S = 1
_SILENCE_LIMIT_S = 60.0
_HELP_LIMIT_S = 60.0
_STOP_LIMIT_S = 5.0
_LOGS_KEPT = 16
_WARNINGS = "2"
_END = "[DONE]"
# As many connections as there are requests: they wait for a slot before they ask.
_ANY_NUMBER: Final = httpx.Limits(max_connections=None)
# What keeps the personas apart, and what else is told whatever it is for. A slot's own last
# prompt, and nothing else, may be gone on from; slots.py says by whom.
_ALWAYS: Final = (
    "--lora-init-without-apply",
    "--no-kv-unified",
    "--no-cache-idle-slots",
    # A sliding window forgets what a prompt begins with: with it nothing could be gone on from.
    "--swa-full",
    "--no-webui",
    "--no-slots",
    "--offline",
)
_ALWAYS_WITH_VALUE: Final = {
    "--cache-ram": "0",
    "--ctx-checkpoints": "0",
    "--cache-reuse": "0",
    "--sse-ping-interval": str(_PING_S),
    "--log-verbosity": _WARNINGS,
}


class LlamaServers:
    """Starts llama-servers: what loads the runners of the host role."""

    def __init__(self, command: Path, logs: Path, *, start_limit_s: float) -> None:
        """`command` is what `find_llama_server` returned; the log files lie in `logs`."""
        self._command = command
        self.logs = logs
        self._start_limit_s = start_limit_s
        self._numbers = itertools.count()

    def __call__(
        self,
        base: Path,
        adapters: Mapping[str, Path],
        *,
        context: int,
        slots: int,
        threads: int,
        embeds: bool = False,
        pools_last_token: bool = False,
    ) -> "LlamaServer":
        """Load a base and its adapters (digest → file) into a process of their own.

        Raises:
            Refusal: 500, it does not start, or says that it loaded something else.
        """
        argv = [
            str(self._command),
            *("--model", _name(base, base)),
            *_ALWAYS,
            *itertools.chain.from_iterable(_ALWAYS_WITH_VALUE.items()),
            *("--ctx-size", str(context * slots), "--parallel", str(slots)),
            *("--threads", str(threads)),
        ]
        names = [_name(path, base) for path in adapters.values()]
        if names:
            argv += ["--lora", ",".join(names)]
        if embeds:
            # A text must fit into one batch.
            argv += ["--embeddings", "--batch-size", str(context), "--ubatch-size", str(context)]
        if pools_last_token:
            argv += ["--pooling", "last"]
        log = self.logs / f"llama-server-{next(self._numbers) % _LOGS_KEPT}.log"
        process = _Process(argv, base.parent, log, self._start_limit_s)
        try:
            process.start(names)
            return LlamaServer(process, adapters, context=context, slots=slots)
        except BaseException:
            process.stop()
            raise


class LlamaServer(LlamaApi):
    """A loaded llama-server; immutable: another set of adapters is another process."""

    def __init__(
        self, process: "_Process", adapters: Mapping[str, Path], *, context: int, slots: int
    ) -> None:
        self._process = process
        super().__init__(adapters, context=context, slots=slots)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.server.pid

    def fault(self) -> str | None:
        """Say how the process ended, with the last lines of its log, or None while it runs."""
        return self._process.server.poll()

    def close(self) -> None:
        """End the process."""
        self._process.stop()

    def _stream(self, request: dict[str, Any], chunks: Chunks) -> None:
        # Leaving the stream closes the connection, and llama-server stops at the next token.
        with (
            self._errors(),
            self._process.client.stream("POST", "/v1/completions", json=request) as reply,
        ):
            if reply.is_error:
                reply.read()
                raise _refusal_in(reply)
            for line in reply.iter_lines():
                if _takes_last(line, chunks):
                    return

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        with self._errors():
            reply = self._process.client.post(path, json=body, timeout=_CALL_LIMIT_S)
        if reply.is_error:
            raise _refusal_in(reply)
        answer: dict[str, Any] = reply.json()
        return answer

    def _ask_embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._post("/v1/embeddings", body)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn a broken connection into what the client of Ollama sees when a runner ends."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise Refusal(500, "llama-server hangs; look at its GPU and its log") from error
        except httpx.HTTPError as error:
            raise Refusal(500, "llama-server ended while it answered; ask again") from error


class _Process:
    """The process, its private folder and the connection to it."""

    def __init__(self, argv: list[str], folder: Path, log_path: Path, start_limit_s: float) -> None:
        key = secrets.token_hex(16)
        # Readable by this user alone; short, as a socket's path must be.
        self._folder = Path(tempfile.mkdtemp(prefix="llama-"))
        socket = self._folder / "llama.sock"
        self.client = httpx.Client(
            base_url=_URL,
            headers={"Authorization": f"Bearer {key}"},
            transport=httpx.HTTPTransport(uds=str(socket), limits=_ANY_NUMBER),
            timeout=httpx.Timeout(_SILENCE_LIMIT_S),
        )
        self.server = ServerProcess(
            "llama-server",
            [*argv, "--host", str(socket)],
            log_path=log_path,
            is_ready=self._is_ready,
            # Not in the command line, where everybody on this machine could read it.
            environment=os.environ | {"LLAMA_API_KEY": key},
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
            loaded = self.client.get("/lora-adapters", timeout=_CALL_LIMIT_S).json()
        except (ServerProcessFailed, httpx.HTTPError) as error:
            raise Refusal(500, f"llama-server cannot load the model: {error}") from error
        found = [(each["id"], each["path"]) for each in loaded]
        if found != list(enumerate(adapters)):
            raise Refusal(500, "llama-server loaded other adapters than it was told; not used")

    def stop(self) -> None:
        """End it and leave nothing behind but its log."""
        self.server.stop()
        self.client.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_ready(self, _pid: int) -> bool:
        with suppress(httpx.HTTPError):
            return self.client.get("/health", timeout=_READY_LIMIT_S).is_success
        return False


def find_llama_server(command: str) -> Path:
    """Return the program of this name or path, if it can do what is asked of it here.

    Raises:
        ConfigurationError: it is not there, cannot be run, or is too old.
    """
    setting = "MODELSERVER_HOST__COMMAND"
    found = shutil.which(command)
    if found is None:
        raise ConfigurationError(
            f"{setting}: found {command!r}, which is no program; expected: llama.cpp's "
            "llama-server, by its path or on the PATH"
        )
    try:
        shown = subprocess.run(
            [found, "--help"], capture_output=True, text=True, timeout=_HELP_LIMIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = type(error).__name__ if isinstance(error, OSError) else str(error)
        raise ConfigurationError(
            f"{setting}: {found} cannot be run ({reason}); install a llama-server that this "
            "machine can run"
        ) from error
    missing = [flag for flag in (*_ALWAYS, *_ALWAYS_WITH_VALUE) if flag not in shown.stdout]
    if missing:
        raise ConfigurationError(
            f"{setting}: {found} does not know {', '.join(missing)}; install a newer llama-server"
        )
    return Path(found).absolute()


def _name(path: Path, base: Path) -> str:
    # Blobs lie in one folder, which the process runs in: a comma in its path would part the list.
    return path.name if path.parent == base.parent else str(path.absolute())


def _takes_last(line: str, chunks: Chunks) -> bool:
    """Take in one line of a stream; say whether it was the last that is wanted."""
    field, _, value = line.partition(":")
    value = value.strip()
    if field == "data" and value != _END:
        return chunks(json.loads(value))
    if field == "error":
        return chunks({"error": json.loads(value)})
    # Between events, and where the server only says that it lives.
    return value == _END or chunks.poll()


def _refusal_in(reply: httpx.Response) -> Refusal:
    try:
        return refusal_of(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        return Refusal(500, f"llama-server answered with status {reply.status_code}")
