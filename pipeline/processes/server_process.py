"""Child processes that never outlive their parent, which the kernel guarantees on Linux.

`ServerProcess` owns the lifecycle of one server's process, and its log file. It knows no protocol:
the caller supplies the command line and a predicate that says when the server answers.
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

# What `end_with_parent` does, followed by execvp, as source for an isolated Python: it starts fast
# because it imports no module of ours. PR_SET_PDEATHSIG (1) survives execve; see prctl(2).
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
    """A server process did not start, did not answer in time or ended; see its log file."""

    code: ClassVar[str] = "server_process_failed"


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, process id `parent`, dies (prctl(2)).

    Strictly it is the parent's thread that counts, the one that started this process.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if getppid() != parent:  # It died before the call above, which then has no effect.
        _exit(1)


def dying_with_parent(argv: Sequence[str]) -> list[str]:
    """Return a command that executes `argv` and is killed when the thread that starts it ends."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(getpid()), *argv]


class ServerProcess:
    """A server that runs while the context is open.

    `is_ready` is called with the process id until it returns true; it must return soon and must
    not raise. `environment` replaces the present one. `folder` is the working directory. `start`
    and `wait_until_ready` are public so that several servers can start at the same time.
    """

    failure: ClassVar[type[ServerProcessFailed]] = ServerProcessFailed
    """The exception that is raised when the server fails."""

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

        The kernel ties the child to the *thread* that starts it, not to the process. So a thread
        of its own starts it and then waits for its end.

        Raises:
            ServerProcessFailed: the program cannot be started at all.
        """
        keeper = threading.Thread(
            target=self._start_and_reap, name=f"keep-{self.name}", daemon=True
        )
        keeper.start()
        self._spawned.wait()
        if self._spawn_error is not None:
            raise self.failure(f"{self.name} cannot be started: {self._spawn_error}")

    def wait_until_ready(self) -> None:
        """Return as soon as the server answers.

        Raises:
            ServerProcessFailed: it ended, or did not answer within `start_limit_s`; the message
                names the log file and shows its last lines.
        """
        deadline = time.monotonic() + self._start_limit_s
        while not self._ended.is_set():
            if self._is_ready(self.pid):
                return
            if time.monotonic() >= deadline:
                raise self._failure(f"did not answer within {self._start_limit_s:.0f} s")
            self._ended.wait(READY_CHECK_INTERVAL_S)
        raise self._failure(f"ended by itself ({self._describe_exit()}) before it was ready")

    def poll(self) -> str | None:
        """Return a sentence on how the server ended by itself; None if it did not."""
        if self._process is None or self._stopping or not self._ended.is_set():
            return None
        return self._failure(f"ended by itself ({self._describe_exit()})").message

    def stop(self) -> None:
        """Terminate the server, after `stop_limit_s` by force; its children end with it."""
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

    def _start_and_reap(self) -> None:
        try:
            self._process = self._spawn()
        except OSError as error:
            self._spawn_error = error
            self._ended.set()
            return
        finally:
            self._spawned.set()
        # WNOWAIT leaves the process unreaped, so that no other process or group can get its id.
        waitid(P_PID, self._process.pid, WEXITED | WNOWAIT)
        # Processes that the server started are in its group and may have outlived it.
        self._signal_group(signal.SIGKILL)
        with self._reaping:
            self._process.wait()
            self._ended.set()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        _keep_previous(self.log_path)
        with self.log_path.open("wb") as log:
            return subprocess.Popen(
                dying_with_parent(self._argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._folder,
                # Ctrl-C in the terminal must reach the program alone: it stops its servers last.
                start_new_session=True,
            )

    def _signal_group(self, number: signal.Signals) -> None:
        """Signal the server's group unless the server is reaped: its id may be another's then."""
        with self._reaping, suppress(ProcessLookupError):
            if not self._ended.is_set():
                killpg(self.pid, number)

    def _describe_exit(self) -> str:
        code = self._process.returncode if self._process is not None else None
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"

    def _failure(self, what: str) -> ServerProcessFailed:
        lines = _last_lines(self.log_path, LOG_LINES_SHOWN)
        shown = "\n".join(f"    {line}" for line in lines) if lines else "    (empty)"
        return self.failure(f"{self.name} {what}; its log {self.log_path} ends:\n{shown}")


def _keep_previous(log_path: Path) -> None:
    """Rename the log of the previous run: the reason of a crash must survive a restart."""
    if log_path.exists():
        log_path.replace(log_path.with_suffix(".previous.log"))


def _last_lines(path: Path, count: int) -> list[str]:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
    return []
