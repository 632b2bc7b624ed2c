"""The meter of a run: the tokens trained, the time they took, and the time that is left."""

import statistics
from collections import deque

# When the machine becomes slower or faster, the estimate follows within this many steps.
_RECENT_STEPS = 16


class StepMeter:
    """Adds up the optimizer steps of one attempt; steps before a resume are not in it."""

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self._recent_s: deque[float] = deque(maxlen=_RECENT_STEPS)

    def record(self, tokens: int, seconds: float) -> None:
        """Add one step. Tokens are those of ordinary sequences, shared prefixes included."""
        self.tokens += tokens
        self.seconds += seconds
        self._recent_s.append(seconds)

    @property
    def tokens_per_second(self) -> float | None:
        """Mean throughput; None before the first step."""
        return self.tokens / self.seconds if self.seconds else None

    def eta_s(self, remaining_steps: int) -> float | None:
        """Estimate the seconds left from the median recent step; None before the first step."""
        return statistics.median(self._recent_s) * remaining_steps if self._recent_s else None
