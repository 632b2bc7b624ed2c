"""Lanes: a key keeps its order, and no fault ends a lane or closes a ticket."""

import threading
from collections.abc import Callable, Iterator

import pytest

from consumers.kafka.lanes import Lanes, Work
from consumers.kafka.offsets import Ticket
from schemas.errors import LeaseLost, Stopped
from tests.fakes.records import record

LIMIT_S = 10.0


class Bench:
    """Lanes whose work a test decides, and what they finished."""

    def __init__(self) -> None:
        self.act: Callable[[list[int]], None] = lambda offsets: None
        self.tries: list[list[int]] = []
        self.done: list[int] = []
        self._changed = threading.Condition()
        self.lanes = Lanes("lane", self._process, count=2, batch=3)
        self.lanes.start(self._note)

    def _process(self, works: list[Work]) -> None:
        offsets = [work.record.offset for work in works]
        with self._changed:
            self.tries.append(offsets)
            self._changed.notify_all()
        self.act(offsets)

    def _note(self, ticket: Ticket) -> None:
        with self._changed:
            self.done.append(ticket.offset)
            self._changed.notify_all()

    def submit(self, *offsets: int, key: bytes = b"k") -> None:
        for offset in offsets:
            ticket = Ticket(topic="t", partition=0, offset=offset, assignment=1)
            self.lanes.submit(Work(record=record(b"{}", offset=offset, key=key), ticket=ticket))

    def until(self, is_so: Callable[[], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(is_so, LIMIT_S)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    assert made.lanes.stop(LIMIT_S)


def test_records_of_one_key_are_done_in_order(bench: Bench) -> None:
    bench.submit(*range(20))
    bench.until(lambda: bench.done == list(range(20)))


@pytest.mark.parametrize("fault", [ZeroDivisionError("elder's words"), LeaseLost()])
def test_fault_is_told_without_its_text_and_the_records_are_tried_again(
    bench: Bench, fault: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    left = [fault, fault]

    def fail(offsets: list[int]) -> None:
        if left:
            raise left.pop()

    bench.act = fail
    bench.submit(1)
    bench.until(lambda: bench.done == [1])
    assert bench.tries == [[1]] * 3
    told = capsys.readouterr().out
    assert told.count("lane.fault") == 2 and type(fault).__name__ in told
    assert "words" not in told
    bench.submit(2)
    bench.until(lambda: bench.done == [1, 2])
    assert all(thread.is_alive() for thread in bench.lanes.threads)


def test_stop_ends_the_waiting_and_closes_no_ticket(bench: Bench) -> None:
    def fail(offsets: list[int]) -> None:
        raise ZeroDivisionError

    bench.act = fail
    bench.submit(1)
    bench.until(lambda: bench.tries)
    assert bench.lanes.stop(LIMIT_S)
    assert bench.done == []


def test_work_that_the_stop_broke_off_is_left_for_the_next_owner(bench: Bench) -> None:
    def stop(offsets: list[int]) -> None:
        raise Stopped

    bench.act = stop
    bench.submit(1)
    assert bench.lanes.stop(LIMIT_S)
    assert bench.done == []
