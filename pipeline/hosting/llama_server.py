"""Runners as `llama-server` processes, and the search for the program.

Each process listens on a Unix socket in a private folder and requires a random key, so a request
cannot reach a wrong process and no other user can reach this one. It ends with this program. Its
log has warnings and errors, but no prompts.
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
from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.runners.llama_api import Chunks, LlamaApi, to_refusal
from pipeline.processes.sockets import SocketFolder
from schemas.errors import ConfigurationError

_PING_S = 1
_HELP_LIMIT_S = 60.0
_LOGS_KEPT = 16
_WARNINGS = "2"
_END = "[DONE]"
# For every process. They keep the personas apart: only a slot's own last prompt may be reused, and
# slots.py decides for which request.
_FLAGS: Final = (
    "--lora-init-without-apply",
    "--no-kv-unified",
    "--no-cache-idle-slots",
    # A sliding window drops the prompt's beginning, after which nothing could be reused.
    "--swa-full",
    "--no-webui",
    "--no-slots",
    "--offline",
)
_OPTIONS: Final = {
    "--cache-ram": "0",
    "--ctx-checkpoints": "0",
    "--cache-reuse": "0",
    "--sse-ping-interval": str(_PING_S),
    "--log-verbosity": _WARNINGS,
    # Never reduce the context to fit into memory: prompts would be cut.
    "--fit": "off",
}


class LlamaServers:
    """Loads the runners of the host role; a LoadRunner."""

    def __init__(self, command: Path, logs: Path, *, start_limit_s: float) -> None:
        """Prepare to start processes.

        Args:
            command: the program, as `find_llama_server` returned it.
            logs: the folder of the log files.
            start_limit_s: how long a process may take to load its files.
        """
        self._command = command
        self.logs = logs
        self._start_limit_s = start_limit_s
        self._sockets = SocketFolder()
        self._numbers = LogNumbers(_LOGS_KEPT)

    def close(self) -> None:
        """Remove the sockets' folder. Called when all processes have ended."""
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
        """Start a process with a base and its adapters."""
        argv = [
            str(self._command),
            *("--model", _name(base, base)),
            *_FLAGS,
            *itertools.chain.from_iterable(_OPTIONS.items()),
            *("--ctx-size", str(context * slots), "--parallel", str(slots)),
            *("--threads", str(threads)),
        ]
        names = [_name(path, base) for path in adapters.values()]
        if names:
            argv += ["--lora", ",".join(names)]
        if embeds:
            # An embedded text must fit into one batch.
            argv += ["--embeddings", "--batch-size", str(context), "--ubatch-size", str(context)]
        if pools_last_token:
            argv += ["--pooling", "last"]
        number = self._numbers.take()
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
    """A runner that is a llama-server process."""

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
        """Return how the process ended, with the last lines of its log."""
        return self._process.server.poll()

    def close(self) -> None:
        """End the process."""
        self._process.stop()

    def _stream(self, request: dict[str, Any], chunks: Chunks) -> None:
        # Leaving the context closes the connection; llama-server then stops at the next token.
        with (
            self._errors(),
            self._process.client.stream("POST", "/v1/completions", json=request) as reply,
        ):
            if reply.is_error:
                reply.read()
                raise _refusal_in(reply)
            for line in reply.iter_lines():
                if _consume_line(line, chunks):
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
        """Turn a broken connection into 503, which does not count against the model."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise Refusal(503, "llama-server hangs; look at its GPU and its log") from error
        except httpx.HTTPError as error:
            raise Refusal(503, "llama-server ended while it answered; ask again") from error
        except RuntimeError as error:
            # httpx raises it for a request on a client that has been closed meanwhile.
            if not self._process.client.is_closed:
                raise
            raise Refusal(503, "llama-server was closed before it answered; ask again") from error


def find_llama_server(command: str) -> Path:
    """Return the absolute path of a program that supports all required options.

    Args:
        command: a path, or a name that is looked up on the PATH.

    Raises:
        ConfigurationError: there is no such program, it cannot be run, or it is too old.
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
    missing = [flag for flag in (*_FLAGS, *_OPTIONS) if flag not in shown.stdout]
    if missing:
        raise ConfigurationError(
            f"{setting}: {found} does not know {', '.join(missing)}; install a newer llama-server"
        )
    return Path(found).absolute()


def _name(path: Path, base: Path) -> str:
    # Relative to the working directory, where the blobs lie: llama-server splits the list of
    # adapters at commas, and the folder's path may contain one.
    return path.name if path.parent == base.parent else str(path.absolute())


def _consume_line(line: str, chunks: Chunks) -> bool:
    """Consume one line of a stream; return whether reading should stop."""
    field, _, value = line.partition(":")
    value = value.strip()
    if field == "data" and value != _END:
        return chunks(json.loads(value))
    if field == "error":
        return chunks({"error": json.loads(value)})
    # A blank line between events, or a ping.
    return value == _END or chunks.poll()


def _refusal_in(reply: httpx.Response) -> Refusal:
    try:
        return to_refusal(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        return Refusal(500, f"llama-server answered with status {reply.status_code}")
