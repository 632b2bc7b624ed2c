"""What failed lately is not tried again for a while: at first for none, then for 1, 2, 4 s."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from pipeline.hosting.server.failures import Refusal

_LONGEST_S = 60.0
_MOST_DOUBLINGS = 6
_FORGOTTEN_AFTER_S = 600.0


@dataclass(frozen=True, slots=True)
class _Failure:
    times: int
    retry_at: float
    sentence: str


class Backoff:
    """Failures in a row, by what failed. Called with the owner's lock held."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: dict[Hashable, _Failure] = {}

    def note_failure(self, what: Hashable, sentence: str) -> None:
        """Count a failure; after the first in a row the next try has to wait."""
        before = self._failures.get(what)
        in_a_row = before is not None and self._clock() - before.retry_at < _FORGOTTEN_AFTER_S
        times = before.times + 1 if before and in_a_row else 1
        wait_s = min(2.0 ** min(times - 2, _MOST_DOUBLINGS), _LONGEST_S) if times > 1 else 0.0
        self._failures[what] = _Failure(times, self._clock() + wait_s, sentence)

    def note_success(self, what: Hashable) -> None:
        """Forget the failures."""
        self._failures.pop(what, None)

    def check(self, what: Hashable) -> None:
        """Let through, or refuse until the wait is over.

        Raises:
            Refusal: 503, with the last failure's reason and when the next try may come.
        """
        failure = self._failures.get(what)
        if failure is None:
            return
        left_s = failure.retry_at - self._clock()
        if left_s > 0:
            raise Refusal(
                503,
                f"not tried again for {left_s:.0f} s after {failure.times} failures in a row; "
                f"the last: {failure.sentence}",
            )
