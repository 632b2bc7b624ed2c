"""Wait in a test until something holds; give up when nothing moves any more.

A busy machine makes everything slower but stops nothing. A wait therefore names what shows that
the process under test makes progress (a count, a state, an offset), and fails only after that has
not changed for a while. A limit for the whole wait ends what moves for ever.
"""

import threading
import time
from collections.abc import Callable

STALL_S = 60.0
# Below the timeout of a test (pyproject.toml), so that the failure says what was waited for.
LIMIT_S = 240.0
_INTERVAL_S = 0.02


def wait_for(
    is_so: Callable[[], object],
    what: str = "the condition",
    *,
    progress: Callable[[], object] | None = None,
    stall_s: float = STALL_S,
    limit_s: float = LIMIT_S,
    pause: Callable[[float], object] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Return once `is_so()` is true; fail with `what` if it does not come about.

    `progress` returns a value that changes while the process under test makes progress. The wait
    fails after `stall_s` seconds without a change, or after `limit_s` seconds in all. Without
    `progress` it fails after `stall_s` seconds. `pause` waits between two looks, for so many
    seconds; a test with a false clock passes that clock's `advance`.
    """
    pause = pause or threading.Event().wait
    began = moved = monotonic()
    seen = progress() if progress is not None else None
    while not is_so():
        if progress is not None and (found := progress()) != seen:
            seen, moved = found, monotonic()
        now = monotonic()
        last = f"; last seen: {seen!r}" if progress is not None else ""
        assert now - moved < stall_s, f"expected: {what}{last}; no change for {now - moved:.0f} s"
        assert now - began < limit_s, f"expected: {what}{last}; not so within {now - began:.0f} s"
        pause(_INTERVAL_S)


def wait_for_value(
    wanted: object,
    read: Callable[[], object],
    what: str,
    *,
    stall_s: float = STALL_S,
    limit_s: float = LIMIT_S,
    pause: Callable[[float], object] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Return once `read()` returns `wanted`; each change of the value is progress.

    `what` names the value. The limits are those of `wait_for`; a failure shows the value wanted
    and the one that was read last.
    """
    last: list[object] = []

    def is_wanted() -> bool:
        last[:] = [read()]
        return last[0] == wanted

    wait_for(
        is_wanted,
        f"{what} {wanted!r}",
        progress=lambda: last[0] if last else None,
        stall_s=stall_s,
        limit_s=limit_s,
        pause=pause,
        monotonic=monotonic,
    )
