"""`keep_alive`: what is understood, and how long a base stays."""

import asyncio
import math
from datetime import UTC, datetime

import pytest

from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.stays import DEFAULT_STAY_S, Stays, read_keep_alive


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
    """Seconds as a number, or numbers with units; negative means for ever."""
    assert read_keep_alive(value) == seconds


@pytest.mark.parametrize("value", ["", "soon", "5", "5 m", "m", "1d", True])
def test_what_is_no_duration_is_refused(value: str | bool) -> None:
    """A bare number in quotes among them, as Go refuses it."""
    with pytest.raises(Refusal) as error:
        read_keep_alive(value)
    assert error.value.status == 400


class Unloaded:
    """Keeps the bases that were unloaded; `happened` is set with each."""

    def __init__(self) -> None:
        self.bases: list[str] = []
        self.happened = asyncio.Event()

    def __call__(self, base: str) -> None:
        self.bases.append(base)
        self.happened.set()


def _seconds_left(stays: Stays, base: str) -> float:
    expires_at = stays.expiry(base)
    assert expires_at is not None
    return (expires_at - datetime.now(UTC)).total_seconds()


def test_base_stays_as_long_as_the_last_request_wanted() -> None:
    """A request that says nothing leaves it at that; the default is five minutes."""

    async def scenario() -> None:
        stays = Stays(Unloaded(), unloads=True)
        assert stays.expiry("base") is None
        for wanted, expected in ((None, DEFAULT_STAY_S), (600.0, 600), (None, 600), (90.0, 90)):
            stays.begin("base", wanted)
            stays.end("base")
            assert _seconds_left(stays, "base") == pytest.approx(expected, abs=5)
        stays.begin("base", math.inf)
        stays.end("base")
        assert _seconds_left(stays, "base") > 1e9

    asyncio.run(scenario())


def test_base_is_unloaded_after_the_last_of_its_requests() -> None:
    """Not while another one is under way."""

    async def scenario() -> None:
        unloaded = Unloaded()
        stays = Stays(unloaded, unloads=True)
        stays.begin("base", None)
        stays.begin("base", 0)
        stays.end("base")
        assert unloaded.bases == [] and stays.expiry("base") is not None
        stays.end("base")
        assert unloaded.bases == ["base"] and stays.expiry("base") is None

    asyncio.run(scenario())


def test_base_is_unloaded_by_the_clock() -> None:
    """When nobody asks any more."""

    async def scenario() -> None:
        unloaded = Unloaded()
        stays = Stays(unloaded, unloads=True)
        stays.begin("base", 0.01)
        stays.end("base")
        await asyncio.wait_for(unloaded.happened.wait(), 5)
        assert unloaded.bases == ["base"] and stays.expiry("base") is None

    asyncio.run(scenario())


def test_shared_base_is_never_unloaded() -> None:
    """One persona's wish must not take the base from all others."""

    async def scenario() -> None:
        unloaded = Unloaded()
        stays = Stays(unloaded, unloads=False)
        stays.begin("base", 0)
        stays.end("base")
        stays.leave("base")
        assert unloaded.bases == [] and _seconds_left(stays, "base") > 1e9

    asyncio.run(scenario())
