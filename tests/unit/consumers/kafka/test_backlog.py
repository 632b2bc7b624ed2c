"""The backlog: in order, within its capacity, and without the records of revoked partitions."""

from consumers.kafka.backlog import Backlog
from tests.fakes.records import record


def fill(backlog: Backlog, count: int, value: bytes = b"x", partition: int = 3) -> None:
    for offset in range(count):
        backlog.put(record(value, topic="t", partition=partition, offset=offset, key=None))


def test_oldest_record_is_taken_first_with_the_time_it_was_received() -> None:
    times = iter((1.0, 2.0))
    backlog = Backlog(10, 100, lambda: next(times))
    fill(backlog, 2)
    taken = [backlog.take(), backlog.take()]
    assert [(w.record.offset, w.received_at) for w in taken] == [(0, 1.0), (1, 2.0)]
    assert len(backlog) == 0


def test_full_by_number_until_half_is_taken() -> None:
    backlog = Backlog(4, 100)
    fill(backlog, 4)
    assert backlog.is_full and backlog.free == 0
    backlog.take()
    assert not backlog.is_full and not backlog.is_half_empty
    backlog.take()
    assert backlog.is_half_empty


def test_full_by_bytes_until_half_is_taken() -> None:
    backlog = Backlog(100, 40)
    fill(backlog, 2, b"x" * 20)
    assert backlog.is_full and not backlog.is_half_empty
    backlog.take()
    assert backlog.is_half_empty


def test_revoked_partition_takes_its_records_along() -> None:
    backlog = Backlog(100, 60)
    fill(backlog, 2, b"x" * 20, partition=1)
    fill(backlog, 1, b"x" * 20, partition=2)
    assert backlog.is_full
    backlog.drop({("t", 1), ("u", 2)})
    assert (len(backlog), backlog.is_full) == (1, False)
    assert backlog.take().record.partition == 2
    assert backlog.is_half_empty
