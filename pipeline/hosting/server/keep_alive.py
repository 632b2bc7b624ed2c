"""Ollama's `keep_alive`: how long a base stays in memory after its last request.

The most recent `keep_alive` that a request named applies; `/api/ps` shows the resulting time. All
methods run in the event loop's thread.
"""

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from pipeline.hosting.server.errors import Refusal

KeepAlive = float | str | bool | None
DEFAULT_KEEP_ALIVE_S: Final = 300.0
_NEVER: Final = datetime(2318, 1, 1, tzinfo=UTC)
_UNIT_S: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
_DURATION: Final = re.compile(rf"[-+]?(?:0|(?:{_PART.pattern})+)")


def read_keep_alive(value: KeepAlive) -> float | None:
    """Parse a request's `keep_alive` into seconds.

    Returns:
        Seconds; infinity for a negative value; None if the request names none.

    Raises:
        Refusal: 400, it is neither a number of seconds nor a Go duration such as `1h30m`.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        raise Refusal(400, "Unsupported type: 'bool'")
    if isinstance(value, str):
        if not _DURATION.fullmatch(value):
            raise Refusal(400, f'time: invalid duration "{value}"')
        length = sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(value))
        return math.inf if value.startswith("-") and length else length
    return math.inf if value < 0 else float(value)


@dataclass
class _LoadedBase:
    """One base in memory, the requests that use it, and when it is unloaded."""

    keep_alive_s: float
    requests: int = 0
    expires_at: datetime = _NEVER
    timer: asyncio.TimerHandle | None = None


class KeepAliveTimers:
    """Unloads each base when its keep-alive has passed."""

    def __init__(self, unload: Callable[[str], object], *, unloads: bool) -> None:
        """Begin with no base in memory.

        Args:
            unload: receives the digest of a base to be unloaded; must not block.
            unloads: if false, no base is ever unloaded, whatever requests ask for.
        """
        self._unload = unload
        self._unloads = unloads
        self._bases: dict[str, _LoadedBase] = {}

    def begin_request(self, base: str, keep_alive_s: float | None) -> None:
        """Note that a request uses a base; its `keep_alive_s` applies from now on, unless None."""
        loaded = self._bases.setdefault(base, _LoadedBase(DEFAULT_KEEP_ALIVE_S))
        loaded.requests += 1
        if keep_alive_s is not None:
            loaded.keep_alive_s = keep_alive_s
        if not self._unloads:
            loaded.keep_alive_s = math.inf
        self._set_timer(base, loaded)

    def end_request(self, base: str) -> None:
        """Note that a request has ended; the keep-alive starts over."""
        loaded = self._bases.get(base)
        if loaded is None:
            return
        loaded.requests -= 1
        if loaded.requests == 0 and loaded.keep_alive_s == 0:
            self.unload(base)
        else:
            self._set_timer(base, loaded)

    def unload(self, base: str) -> None:
        """Unload a base now, unless this server never unloads."""
        if not self._unloads:
            return
        loaded = self._bases.pop(base, None)
        if loaded is not None and loaded.timer is not None:
            loaded.timer.cancel()
        self._unload(base)

    def expires_at(self, base: str) -> datetime | None:
        """Return when a base will be unloaded if no request comes; None if it is not in memory."""
        loaded = self._bases.get(base)
        return None if loaded is None else loaded.expires_at

    def _set_timer(self, base: str, loaded: _LoadedBase) -> None:
        if loaded.timer is not None:
            loaded.timer.cancel()
        loaded.timer = None
        if math.isinf(loaded.keep_alive_s):
            loaded.expires_at = _NEVER
            return
        loaded.expires_at = datetime.now(UTC) + timedelta(seconds=loaded.keep_alive_s)
        if loaded.requests == 0:
            loop = asyncio.get_running_loop()
            loaded.timer = loop.call_later(loaded.keep_alive_s, self.unload, base)
