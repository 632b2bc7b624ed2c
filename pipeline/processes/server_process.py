"""Child processes that never outlive their parent: the kernel's promise, and one server's life.

`ServerProcess` owns the life of a child process and its log file. It knows nothing of what the
server speaks: the caller hands in the command line and a predicate that says when it answers.
"""

import ctypes
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from os import P_PID, WEXITED, WNOWAIT, _exit, environ, getpid, getppid, killpg, waitid
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from schemas.errors import RetryError

READY_CHECK_INTERVAL_S = 0.02
LOG_LINES_SHOWN = 15
_PR_SET_PDEATHSIG = 1

# The child asks the kernel to be killed with its parent, then becomes the server. A parent that
# died before the request was made would never be noticed, hence the second look at its id.
# PR_SET_PDEATHSIG (1) outlives execve; see prctl(2). The text of `end_with_parent`, for a Python
# that must start fast and so finds no module of ours.
_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]} cannot be started: {error.strerror}")
"""


class ServerProcessFailed(RetryError):
    """A server process did not start or ended by itself; see its log file."""

    code: ClassVar[str] = "server_process_failed"


def end_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent dies (Linux: prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if getppid() != parent:  # It died before the call above.
        _exit(1)


def dying_with_parent(argv: Sequence[str]) -> list[str]:
    """Give the command that becomes `argv`, and is killed when the thread that started it ends."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(getpid()), *argv]


class ServerProcess:
    """A server that runs while the context is open.

    `is_ready` is called with the process id again and again until it returns true; it must
    return soon and may raise nothing. The server runs in `folder`, if one is named. `start` and
    `wait_until_ready` are public so that several servers can be started first and waited for
    afterwards.
    """

    failure: ClassVar[type[ServerProcessFailed]] = ServerProcessFailed
    """What is raised when the server fails."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log_path: Path,
        is_ready: Callable[[int], bool],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        start_limit_s: float = 60.0,
        stop_limit_s: float = 5.0,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._argv = tuple(argv)
        self._is_ready = is_ready
        self._environment = dict(environ if environment is None else environment)
        self._folder = folder
        self._start_limit_s = start_limit_s
        self._stop_limit_s = stop_limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._spawned = threading.Event()
        self._ended = threading.Event()
        self._reaping = threading.Lock()
        self._spawn_error: OSError | None = None
        self._stopping = False

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id; 0 before the start."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start the process and return at once.

        The kernel ties the child to the *thread* that made it, not to the process. So a thread
        of our own makes it and then does nothing but wait for its end.

        Raises:
            ServerProcessFailed: the program cannot be started at all.
        """
        keeper = threading.Thread(target=self._keep, name=f"keep-{self.name}", daemon=True)
        keeper.start()
        self._spawned.wait()
        if self._spawn_error is not None:
            raise self.failure(f"{self.name} cannot be started: {self._spawn_error}")

    def wait_until_ready(self) -> None:
        """Return when the server answers.

        Raises:
            ServerProcessFailed: it ended, or did not answer within the start limit; the
                message names the log file and shows its last lines.
        """
        deadline = time.monotonic() + self._start_limit_s
        while not self._ended.is_set():
            if self._is_ready(self.pid):
                return
            if time.monotonic() >= deadline:
                raise self._failure(f"did not answer within {self._start_limit_s:.0f} s")
            self._ended.wait(READY_CHECK_INTERVAL_S)
        raise self._failure(f"ended by itself ({self._exit_words()}) before it was ready")

    def poll(self) -> str | None:
        """Return a sentence about the server's death, or None while all is well."""
        if self._process is None or self._stopping or not self._ended.is_set():
            return None
        return self._failure(f"ended by itself ({self._exit_words()})").message

    def stop(self) -> None:
        """Ask the server to end, insist after the stop limit; its children end with it."""
        is_first, self._stopping = not self._stopping, True
        if self._process is None or not is_first:
            return
        self._signal_group(signal.SIGTERM)
        if not self._ended.wait(self._stop_limit_s):
            self._signal_group(signal.SIGKILL)
            self._ended.wait()

    def kill(self) -> None:
        """End the server and its children at once, as a crash would."""
        is_first, self._stopping = not self._stopping, True
        if self._process is not None and is_first:
            self._signal_group(signal.SIGKILL)
            self._ended.wait()

    def _keep(self) -> None:
        try:
            self._process = self._spawn()
        except OSError as error:
            self._spawn_error = error
            self._ended.set()
            return
        finally:
            self._spawned.set()
        # The process is not reaped yet, so its id is still its own and its group's.
        waitid(P_PID, self._process.pid, WEXITED | WNOWAIT)
        # What the server itself started has its session, and may have outlived it.
        self._signal_group(signal.SIGKILL)
        with self._reaping:
            self._process.wait()
            self._ended.set()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        _set_aside(self.log_path)
        with self.log_path.open("wb") as log:
            return subprocess.Popen(
                dying_with_parent(self._argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._folder,
                # Ctrl-C at the terminal is for the program, which ends its servers last.
                start_new_session=True,
            )

    def _signal_group(self, number: signal.Signals) -> None:
        """Signal the server and what it started, unless it has been reaped: its id is free then."""
        with self._reaping, suppress(ProcessLookupError):
            if not self._ended.is_set():
                killpg(self.pid, number)

    def _exit_words(self) -> str:
        code = self._process.returncode if self._process is not None else None
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"

    def _failure(self, what: str) -> ServerProcessFailed:
        lines = _last_lines(self.log_path, LOG_LINES_SHOWN)
        shown = "\n".join(f"    {line}" for line in lines) if lines else "    (empty)"
        return self.failure(f"{self.name} {what}; its log {self.log_path} ends:\n{shown}")


def _set_aside(log_path: Path) -> None:
    """Keep one previous log: the reason of a crash must outlive the next start."""
    if log_path.exists():
        log_path.replace(log_path.with_suffix(".previous.log"))


def _last_lines(path: Path, count: int) -> list[str]:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
    return []
