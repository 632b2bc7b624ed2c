"""A clock that a test moves: what takes minutes is shown in a moment, and always alike."""

from datetime import UTC, datetime, timedelta


class FalseClock:
    """It stands still but for `tick_ms` at each look, until it is moved."""

    def __init__(self, *, tick_ms: int = 0) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)
        self._tick = timedelta(milliseconds=tick_ms)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(milliseconds=round(seconds * 1000))

    def read(self) -> datetime:
        """Look at the clock."""
        self.now += self._tick
        return self.now
