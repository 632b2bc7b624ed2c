"""How long a loaded base stays in memory: `keep_alive`, and what `/api/ps` says of it.

A base stays while requests use it, and as long afterwards as the last request that named a
`keep_alive` wanted. All methods are for the event loop's thread.
"""

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from pipeline.hosting.server.failures import Refusal

KeepAlive = float | str | bool | None
DEFAULT_STAY_S: Final = 300.0
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
    """Return the seconds a model is to stay; infinity for a negative value, None if not said.

    Raises:
        Refusal: 400, it is neither a number of seconds nor a duration of Go's, such as `1h30m`.
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
class _Stay:
    """One base in memory: the requests that use it, and what is to come after them."""

    length_s: float
    users: int = 0
    expires_at: datetime = _NEVER
    timer: asyncio.TimerHandle | None = None


class Stays:
    """The bases that are in memory, and until when."""

    def __init__(self, unload: Callable[[str], object], *, unloads: bool) -> None:
        """Start without any.

        Args:
            unload: gets the digest of a base whose stay is over; must not block.
            unloads: false: every stay is endless, whatever is asked for.
        """
        self._unload = unload
        self._unloads = unloads
        self._stays: dict[str, _Stay] = {}

    def begin(self, base: str, length_s: float | None) -> None:
        """Note that a request uses a base; a length that is not None is the base's from now on."""
        stay = self._stays.setdefault(base, _Stay(DEFAULT_STAY_S))
        stay.users += 1
        if length_s is not None:
            stay.length_s = length_s
        if not self._unloads:
            stay.length_s = math.inf
        self._set_timer(base, stay)

    def end(self, base: str) -> None:
        """Note that a request has ended."""
        stay = self._stays.get(base)
        if stay is None:
            return
        stay.users -= 1
        if stay.users == 0 and stay.length_s == 0:
            self.leave(base)
        else:
            self._set_timer(base, stay)

    def leave(self, base: str) -> None:
        """Unload a base now; nothing happens on a server that unloads nothing."""
        if not self._unloads:
            return
        stay = self._stays.pop(base, None)
        if stay is not None and stay.timer is not None:
            stay.timer.cancel()
        self._unload(base)

    def expiry(self, base: str) -> datetime | None:
        """Return until when a base stays as it looks now; None when it is not in memory."""
        stay = self._stays.get(base)
        return None if stay is None else stay.expires_at

    def _set_timer(self, base: str, stay: _Stay) -> None:
        if stay.timer is not None:
            stay.timer.cancel()
        stay.timer = None
        if math.isinf(stay.length_s):
            stay.expires_at = _NEVER
            return
        stay.expires_at = datetime.now(UTC) + timedelta(seconds=stay.length_s)
        if stay.users == 0:
            loop = asyncio.get_running_loop()
            stay.timer = loop.call_later(stay.length_s, self.leave, base)
