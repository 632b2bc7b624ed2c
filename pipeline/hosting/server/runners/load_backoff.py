"""Delays loads that keep failing: no delay after the first failure in a row, then 1, 2, 4 … s."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from pipeline.hosting.server.errors import Refusal

_MAX_DELAY_S = 60.0
_MAX_DOUBLINGS = 6
# A failure this long after the previous one counts as the first in a row again.
_RESET_AFTER_S = 600.0


@dataclass(frozen=True, slots=True)
class _Failure:
    times: int
    retry_at: float
    message: str


class LoadBackoff:
    """Consecutive failures per key. The caller holds the scheduler's lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: dict[Hashable, _Failure] = {}

    def note_failure(self, key: Hashable, message: str) -> None:
        """Count a failure; from the second in a row on, the next attempt is delayed."""
        before = self._failures.get(key)
        in_a_row = before is not None and self._clock() - before.retry_at < _RESET_AFTER_S
        times = before.times + 1 if before and in_a_row else 1
        delay_s = min(2.0 ** min(times - 2, _MAX_DOUBLINGS), _MAX_DELAY_S) if times > 1 else 0.0
        self._failures[key] = _Failure(times, self._clock() + delay_s, message)

    def note_success(self, key: Hashable) -> None:
        """Reset the count."""
        self._failures.pop(key, None)

    def check(self, key: Hashable) -> None:
        """Return if an attempt is allowed now.

        Raises:
            Refusal: 503, with the time until the next attempt and the last failure's message.
        """
        failure = self._failures.get(key)
        if failure is None:
            return
        left_s = failure.retry_at - self._clock()
        if left_s > 0:
            raise Refusal(
                503,
                f"not tried again for {left_s:.0f} s after {failure.times} failures in a row; "
                f"the last: {failure.message}",
            )
