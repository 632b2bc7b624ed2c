"""Wait for a condition, with a limit."""

import threading
import time
from collections.abc import Callable

LIMIT_S = 60.0
_INTERVAL_S = 0.02


def wait_for(is_so: Callable[[], bool], *, limit_s: float = LIMIT_S) -> None:
    """Return when something is so; fail when it takes too long."""
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, f"it has not come about within {limit_s} s"
        threading.Event().wait(_INTERVAL_S)
