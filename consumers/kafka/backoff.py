"""What each thread does at its edge: it names a fault nobody foresaw, and waits before it tries."""

import random
from collections.abc import Callable

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 15.0


def backoff_s(attempt: int, jitter: Callable[[], float] = random.random) -> float:
    """Seconds before try `attempt` (from 1): doubling, at most 15, with full jitter below half."""
    # Bounded: after a night without a broker the power itself would overflow.
    doublings = min(attempt - 1, 16)
    longest = min(FIRST_WAIT_S * 2.0**doublings, LONGEST_WAIT_S)
    return longest * (0.5 + 0.5 * jitter())


def describe_fault(error: BaseException) -> str:
    """Name an unforeseen error and its place, without its text: it may quote an elder."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
    return f"{type(error).__name__} at {where}"
