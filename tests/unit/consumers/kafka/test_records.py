"""A client's message becomes a record."""

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, TIMESTAMP_NOT_AVAILABLE

from consumers.kafka.records import to_record


class ClientMessage:
    """A message as the client gives it."""

    def __init__(self, headers: Callable[[], Any], timestamp: tuple[int, int]) -> None:
        self.headers = headers
        self.timestamp = lambda: timestamp

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return 1

    def offset(self) -> int:
        return 2

    def key(self) -> bytes | None:
        return None

    def value(self) -> bytes | None:
        return b"{}"


def test_message_becomes_a_record() -> None:
    headers = [("a", b"1"), ("a", None)]
    message = ClientMessage(lambda: headers, (TIMESTAMP_LOG_APPEND_TIME, 5))
    record = to_record(message)
    assert (record.topic, record.partition, record.offset) == ("t", 1, 2)
    assert (record.timestamp_ms, record.timestamp_type) == (5, "append")
    assert record.headers == tuple(headers)
    assert record.is_readable


@pytest.mark.parametrize("fault", [SystemError, UnicodeDecodeError("utf-8", b"", 0, 1, "")])
def test_header_name_that_is_no_utf_8_does_not_end_the_loop(fault: Exception) -> None:
    """The client raises; such a record would have stopped the role after each restart anew."""

    def headers() -> None:
        raise fault

    record = to_record(ClientMessage(headers, (TIMESTAMP_NOT_AVAILABLE, -1)))
    assert record.headers == ()
    assert not record.is_readable
