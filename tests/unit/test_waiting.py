"""A wait goes on while something moves, and says what it last saw when it gives up."""

import itertools

import pytest

from tests.waiting import wait_for, wait_for_value


class Time:
    """A clock that only waiting moves: each pause takes one second."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def read(self) -> float:
        return self.now_s

    def pause(self, _seconds: float) -> None:
        self.now_s += 1.0


@pytest.fixture
def time() -> Time:
    return Time()


def test_wait_ends_as_soon_as_the_condition_holds(time: Time) -> None:
    wait_for(lambda: time.now_s >= 5, stall_s=10, pause=time.pause, monotonic=time.read)
    assert time.now_s == 5


def test_condition_that_already_holds_is_not_waited_for(time: Time) -> None:
    wait_for(lambda: True, stall_s=0, limit_s=0, pause=time.pause, monotonic=time.read)
    assert time.now_s == 0


def test_wait_without_progress_ends_after_the_stall_and_names_what_was_expected(time: Time) -> None:
    with pytest.raises(AssertionError, match="expected: the moon; no change for 10 s"):
        wait_for(lambda: False, "the moon", stall_s=10, pause=time.pause, monotonic=time.read)


def test_slow_progress_is_waited_for_far_beyond_the_stall(time: Time) -> None:
    """One step every nine seconds: slower than anybody would plan for, and still moving."""
    wait_for(
        lambda: time.now_s >= 100,
        progress=lambda: time.now_s // 9,
        stall_s=10,
        limit_s=1000,
        pause=time.pause,
        monotonic=time.read,
    )
    assert time.now_s == 100


def test_wait_ends_when_progress_stops_and_says_what_it_last_saw(time: Time) -> None:
    with pytest.raises(AssertionError, match="all 60 jobs; last seen: 40; no change for 10 s"):
        wait_for(
            lambda: False,
            "all 60 jobs",
            progress=lambda: min(40, int(time.now_s)),
            stall_s=10,
            pause=time.pause,
            monotonic=time.read,
        )
    assert time.now_s == 50


def test_what_moves_for_ever_is_given_up_at_the_limit(time: Time) -> None:
    count = itertools.count()
    with pytest.raises(AssertionError, match=r"last seen: \d+; not so within 30 s"):
        wait_for(
            lambda: False,
            progress=lambda: next(count),
            limit_s=30,
            pause=time.pause,
            monotonic=time.read,
        )


def test_value_is_waited_for_while_it_changes(time: Time) -> None:
    wait_for_value(
        12, lambda: int(time.now_s // 9), "jobs", stall_s=10, pause=time.pause, monotonic=time.read
    )
    assert time.now_s == 108


def test_value_that_stays_away_is_shown_beside_the_wanted_one(time: Time) -> None:
    with pytest.raises(AssertionError, match="expected: jobs 60; last seen: 7; no change for 10 s"):
        wait_for_value(60, lambda: 7, "jobs", stall_s=10, pause=time.pause, monotonic=time.read)
