"""What is held back: in order, within bounds, and forgotten with its partition."""

from consumers.kafka.backlog import HeldBack
from tests.fakes.parts import record


def fill(held: HeldBack, count: int, value: bytes = b"x", partition: int = 3) -> None:
    for offset in range(count):
        held.put(record(value, topic="t", partition=partition, offset=offset, key=None))


def test_first_come_is_first_given_out_with_the_time_it_came() -> None:
    times = iter((1.0, 2.0))
    held = HeldBack(10, 100, lambda: next(times))
    fill(held, 2)
    taken = [held.take(), held.take()]
    assert [(h.record.offset, h.received_at) for h in taken] == [(0, 1.0), (1, 2.0)]
    assert len(held) == 0


def test_full_by_number_until_half_is_given_out() -> None:
    held = HeldBack(4, 100)
    fill(held, 4)
    assert held.is_full and held.room == 0
    held.take()
    assert not held.is_full and not held.is_half_empty
    held.take()
    assert held.is_half_empty


def test_full_by_bytes_until_half_is_given_out() -> None:
    held = HeldBack(100, 40)
    fill(held, 2, b"x" * 20)
    assert held.is_full and not held.is_half_empty
    held.take()
    assert held.is_half_empty


def test_partition_that_is_taken_away_takes_its_records_along() -> None:
    held = HeldBack(100, 60)
    fill(held, 2, b"x" * 20, partition=1)
    fill(held, 1, b"x" * 20, partition=2)
    assert held.is_full
    held.drop({("t", 1), ("u", 2)})
    assert (len(held), held.is_full) == (1, False)
    assert held.take().record.partition == 2
    assert held.is_half_empty
