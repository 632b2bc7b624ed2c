"""Backoff: waits grow with each failure in a row, up to a limit, and never to nothing."""

import threading

from consumers.kafka.backoff import Backoff, backoff_s


def longest() -> float:
    return 1.0


def test_waits_grow_to_a_limit_and_never_to_nothing() -> None:
    waits = [backoff_s(attempt, jitter=longest) for attempt in range(1, 2000, 7)]
    assert waits == sorted(waits)
    assert waits[0] == 0.25 and waits[-1] == 15.0
    assert backoff_s(1, jitter=lambda: 0.0) == 0.125


def test_each_failure_in_a_row_doubles_the_wait_and_a_success_starts_anew() -> None:
    backoff = Backoff(jitter=longest)
    assert [backoff.next_s() for _ in range(3)] == [0.25, 0.5, 1.0]
    backoff.reset()
    assert backoff.next_s() == 0.25


def test_stop_ends_a_wait_and_the_failure_counts() -> None:
    stop = threading.Event()
    stop.set()
    backoff = Backoff(jitter=longest)
    assert backoff.wait(stop)
    assert backoff.next_s() == 0.5


def test_wait_without_a_stop_is_false() -> None:
    backoff = Backoff(jitter=lambda: 0.0)
    assert backoff.wait(threading.Event()) is False
