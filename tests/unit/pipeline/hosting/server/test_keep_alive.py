"""`keep_alive`: what is understood, and how long a base keep_alive."""

import asyncio
import math
from datetime import UTC, datetime

import pytest

from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.keep_alive import (
    DEFAULT_KEEP_ALIVE_S,
    KeepAliveTimers,
    read_keep_alive,
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        ("0", 0),
        ("0s", 0),
        (90, 90),
        (1.5, 1.5),
        ("10m", 600),
        ("1h30m", 5400),
        ("250ms", 0.25),
        (".5s", 0.5),
        (-1, math.inf),
        ("-1m", math.inf),
        ("-0s", 0),
    ],
)
def test_durations_are_those_of_go(value: float | str | None, seconds: float | None) -> None:
    """A number of seconds, or numbers with units; negative means forever."""
    assert read_keep_alive(value) == seconds


@pytest.mark.parametrize("value", ["", "soon", "5", "5 m", "m", "1d", True])
def test_invalid_duration_is_refused(value: str | bool) -> None:
    """A bare number as a string is invalid, too, as in Go."""
    with pytest.raises(Refusal) as error:
        read_keep_alive(value)
    assert error.value.status == 400


class Unloaded:
    """Records the unloaded bases; `happened` is set with each."""

    def __init__(self) -> None:
        self.bases: list[str] = []
        self.happened = asyncio.Event()

    def __call__(self, base: str) -> None:
        self.bases.append(base)
        self.happened.set()


def _seconds_left(keep_alive: KeepAliveTimers, base: str) -> float:
    expires_at = keep_alive.expires_at(base)
    assert expires_at is not None
    return (expires_at - datetime.now(UTC)).total_seconds()


def test_most_recent_keep_alive_applies() -> None:
    """A request without one changes nothing; the default is five minutes."""

    async def scenario() -> None:
        keep_alive = KeepAliveTimers(Unloaded(), unloads=True)
        assert keep_alive.expires_at("base") is None
        for wanted, expected in (
            (None, DEFAULT_KEEP_ALIVE_S),
            (600.0, 600),
            (None, 600),
            (90.0, 90),
        ):
            keep_alive.begin_request("base", wanted)
            keep_alive.end_request("base")
            assert _seconds_left(keep_alive, "base") == pytest.approx(expected, abs=5)
        keep_alive.begin_request("base", math.inf)
        keep_alive.end_request("base")
        assert _seconds_left(keep_alive, "base") > 1e9

    asyncio.run(scenario())


def test_base_is_unloaded_after_the_last_of_its_requests() -> None:
    """Not while another request is in flight."""

    async def scenario() -> None:
        unloaded = Unloaded()
        keep_alive = KeepAliveTimers(unloaded, unloads=True)
        keep_alive.begin_request("base", None)
        keep_alive.begin_request("base", 0)
        keep_alive.end_request("base")
        assert unloaded.bases == [] and keep_alive.expires_at("base") is not None
        keep_alive.end_request("base")
        assert unloaded.bases == ["base"] and keep_alive.expires_at("base") is None

    asyncio.run(scenario())


def test_base_is_unloaded_by_the_clock() -> None:
    """The keep-alive passes without a request."""

    async def scenario() -> None:
        unloaded = Unloaded()
        keep_alive = KeepAliveTimers(unloaded, unloads=True)
        keep_alive.begin_request("base", 0.01)
        keep_alive.end_request("base")
        await asyncio.wait_for(unloaded.happened.wait(), 5)
        assert unloaded.bases == ["base"] and keep_alive.expires_at("base") is None

    asyncio.run(scenario())


def test_shared_base_is_never_unloaded() -> None:
    """One persona's keep-alive must not unload the base of all others."""

    async def scenario() -> None:
        unloaded = Unloaded()
        keep_alive = KeepAliveTimers(unloaded, unloads=False)
        keep_alive.begin_request("base", 0)
        keep_alive.end_request("base")
        keep_alive.unload("base")
        assert unloaded.bases == [] and _seconds_left(keep_alive, "base") > 1e9

    asyncio.run(scenario())
