"""Health: whether the process is alive, and whether it is ready for work.

Alive means that its threads run and its loops poll, whatever its dependencies do. Ready means that
its partitions are assigned and its dependencies answer.
"""

import threading
import time
from collections.abc import Callable

from schemas.errors import ModelServerError

_CACHE_S = 2.0

Check = Callable[[], None]


class Health:
    """What is watched, and which of it fails."""

    def __init__(self, stale_after_s: float) -> None:
        """A loop that has not polled for `stale_after_s` is not alive."""
        self._stale_after_s = stale_after_s
        self._polls: dict[str, Callable[[], float]] = {}
        self._assigned: dict[str, Callable[[], bool]] = {}
        self._refused: dict[str, Callable[[], str | None]] = {}
        self._threads: list[threading.Thread] = []
        self._checks: dict[str, Check] = {}
        self._cached: tuple[float, dict[str, str]] = (0.0, {})
        self._lock = threading.Lock()

    def watch_loop(
        self,
        role: str,
        last_poll: Callable[[], float],
        assigned: Callable[[], bool],
        refused: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Watch a consumer loop.

        `last_poll` is in Unix seconds; `refused` says what Kafka forbids the loop, if anything.
        """
        self._polls[role] = last_poll
        self._assigned[role] = assigned
        self._refused[role] = refused

    def watch_thread(self, thread: threading.Thread) -> None:
        """Watch a thread that, once started, must run as long as the process does."""
        self._threads.append(thread)

    def require(self, name: str, check: Check) -> None:
        """Require a dependency; `check` raises a ModelServerError while it is down."""
        self._checks[name] = check

    def faults_of_life(self) -> dict[str, str]:
        """Return, by name, the threads that have ended and the loops that no longer poll."""
        now = time.time()
        ended = {
            thread.name: "its thread has ended"
            for thread in self._threads
            if thread.ident is not None and not thread.is_alive()
        }
        stale = {
            role: f"no poll for {now - poll():.0f} s"
            for role, poll in self._polls.items()
            if now - poll() > self._stale_after_s
        }
        return stale | ended

    def faults_of_readiness(self) -> dict[str, str]:
        """Return, by name, what is not ready; dependencies are asked at most every two seconds."""
        faults = {
            role: "not assigned" for role, assigned in self._assigned.items() if not assigned()
        }
        faults |= {role: why for role, refused in self._refused.items() if (why := refused())}
        with self._lock:
            asked_at, known = self._cached
            if time.monotonic() - asked_at > _CACHE_S:
                known = {name: fault for name, c in self._checks.items() if (fault := _ask(c))}
                self._cached = (time.monotonic(), known)
        return faults | known


def _ask(check: Check) -> str | None:
    try:
        check()
    except ModelServerError as error:
        return error.message
    return None
