"""Backoff: how long to wait after each failure in a row before the next try."""

import random
import threading
from collections.abc import Callable

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 15.0


def backoff_s(attempt: int, jitter: Callable[[], float] = random.random) -> float:
    """Return the seconds to wait after failure number `attempt`, counted from 1.

    The wait doubles with each failure, up to 15 seconds. Jitter takes away up to half of it, so
    that processes that failed together do not all come back together. `jitter` returns a number
    from 0 to 1.
    """
    # Bounded: after a night without a broker the power itself would overflow.
    doublings = min(attempt - 1, 16)
    longest = min(FIRST_WAIT_S * 2.0**doublings, LONGEST_WAIT_S)
    return longest * (0.5 + 0.5 * jitter())


class Backoff:
    """Counts one piece of work's failures in a row; waits longer after each."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._failures = 0

    def next_s(self) -> float:
        """Count one more failure and return how many seconds to wait for it."""
        self._failures += 1
        return backoff_s(self._failures, self._jitter)

    def wait(self, stop: threading.Event) -> bool:
        """Count one more failure and wait for it; True if `stop` was set meanwhile."""
        return stop.wait(self.next_s())

    def reset(self) -> None:
        """Forget the failures: the work succeeded."""
        self._failures = 0
