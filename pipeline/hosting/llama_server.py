"""One `llama-server` process: started, checked, asked, ended.

It listens on a socket in a folder that is this program's alone, and wants a key that was drawn for
it: a request can reach no other process, and nobody else reaches this one. It dies with us. Its
log has warnings and errors, and no prompts.
"""

import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from pipeline.hosting.llama_process import CALL_LIMIT_S, LlamaProcess, LogNumbers
from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.llama import Chunks, LlamaApi, refusal_of
from pipeline.processes.sockets import SocketFolder
from schemas.errors import ConfigurationError

# A stream says something every second, be it only that it lives.
_PING_S = 1
_HELP_LIMIT_S = 60.0
_LOGS_KEPT = 16
_WARNINGS = "2"
_END = "[DONE]"
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
    # Less context than was asked for, to fit into memory, would cut what a persona is told.
    "--fit": "off",
}


class LlamaServers:
    """Starts llama-servers: what loads the runners of the host role."""

    def __init__(self, command: Path, logs: Path, *, start_limit_s: float) -> None:
        """`command` is what `find_llama_server` returned; the log files lie in `logs`."""
        self._command = command
        self.logs = logs
        self._start_limit_s = start_limit_s
        self._sockets = SocketFolder()
        self._numbers = LogNumbers(_LOGS_KEPT)

    def close(self) -> None:
        """Remove the sockets' folder; all processes have ended."""
        self._sockets.close()

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
        number = self._numbers.acquire()
        process = LlamaProcess(
            argv,
            base.parent,
            self._sockets.path,
            log_path=self.logs / f"llama-server-{number}.log",
            start_limit_s=self._start_limit_s,
            on_stop=lambda: self._numbers.release(number),
        )
        try:
            process.start(names)
            return LlamaServer(process, adapters, context=context, slots=slots)
        except BaseException:
            process.stop()
            raise


class LlamaServer(LlamaApi):
    """A loaded llama-server; immutable: another set of adapters is another process."""

    def __init__(
        self, process: LlamaProcess, adapters: Mapping[str, Path], *, context: int, slots: int
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
            reply = self._process.client.post(path, json=body, timeout=CALL_LIMIT_S)
        if reply.is_error:
            raise _refusal_in(reply)
        answer: dict[str, Any] = reply.json()
        return answer

    def _ask_embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._post("/v1/embeddings", body)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn a broken connection into 503: it is no fault of the model's that was asked."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise Refusal(503, "llama-server hangs; look at its GPU and its log") from error
        except httpx.HTTPError as error:
            raise Refusal(503, "llama-server ended while it answered; ask again") from error
        except RuntimeError as error:
            # So httpx refuses what was queued for an instance that has been closed since.
            if not self._process.client.is_closed:
                raise
            raise Refusal(503, "llama-server was closed before it answered; ask again") from error


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
