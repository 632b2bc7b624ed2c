"""Clocks for tests: one that never moves, and one that moves only when the test says so."""

from datetime import UTC, datetime, timedelta

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def fixed_clock() -> datetime:
    """Return the same moment at each call."""
    return NOW


class FalseClock:
    """A clock that a test moves; each read moves it by `tick_ms` as well."""

    def __init__(self, *, tick_ms: int = 0) -> None:
        self.now = NOW
        self._tick = timedelta(milliseconds=tick_ms)

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.now += timedelta(milliseconds=round(seconds * 1000))

    def read(self) -> datetime:
        """Return the time, after one tick."""
        self.now += self._tick
        return self.now
