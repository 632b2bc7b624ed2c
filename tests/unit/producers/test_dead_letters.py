"""Dead letters: the record as it came, with Spring's header names and encodings."""

import struct

import pytest

from producers.dead_letters import dead_letter, empty_dead_letter, read_dead_letter, replayed
from producers.publisher import Publication
from schemas.errors import InvalidEvent, MalformedRecord
from schemas.record import Header, Record
from tests.fakes.records import record

OWN: tuple[Header, ...] = (("ce_id", b"7"), ("x", None), ("x", b"\xff"))


def test_record_stays_as_it_came() -> None:
    dead = dead_letter(record(b"\xff\x00", *OWN, key=None), "group", MalformedRecord())
    assert (dead.topic, dead.partition) == ("train-requested-dlt", 3)
    assert (dead.key, dead.value) == (None, b"\xff\x00")
    assert dead.headers[: len(OWN)] == OWN


def test_dead_letter_of_a_record_whose_headers_cannot_be_read_says_that_they_are_lost() -> None:
    unreadable = record(b"{}").model_copy(update={"is_readable": False})
    headers = dict(dead_letter(unreadable, "g", MalformedRecord()).headers)
    assert headers["heirloom_left-out"] == b"headers: no UTF-8"


def test_tombstone_stays_a_tombstone() -> None:
    assert dead_letter(record(None), "group", MalformedRecord()).value is None


def test_headers_are_springs_in_springs_encodings() -> None:
    dead = dead_letter(record(b"{}"), "modelserver-training", InvalidEvent("field: 错"))
    assert dict(dead.headers) == {
        "kafka_dlt-original-topic": b"train-requested",
        "kafka_dlt-original-partition": struct.pack(">i", 3),
        "kafka_dlt-original-offset": struct.pack(">q", 17),
        "kafka_dlt-original-timestamp": struct.pack(">q", 1_734_512_345_678),
        "kafka_dlt-original-timestamp-type": b"CreateTime",
        "kafka_dlt-original-consumer-group": b"modelserver-training",
        "kafka_dlt-exception-fqcn": b"schemas.errors.InvalidEvent",
        "kafka_dlt-exception-message": "field: 错".encode(),
        "heirloom_error-code": b"invalid_event",
    }


def test_dead_letter_of_a_replayed_record_says_the_newest_reason_last() -> None:
    """Kafka's `lastHeader` finds it; the older one stays to be seen."""
    first = dead_letter(record(b"{}"), "g", InvalidEvent())
    again = dead_letter(record(b"{}", *first.headers), "g", MalformedRecord())
    codes = [value for name, value in again.headers if name == "heirloom_error-code"]
    assert codes == [b"invalid_event", b"malformed_record"]


def test_dead_letter_is_opened_to_the_record_as_it_came() -> None:
    came = record(b"{}", *OWN)
    dead = read_dead_letter(received(dead_letter(came, "g", InvalidEvent("why"))))
    assert dead is not None
    assert dead.original == came
    assert (dead.group, dead.code, dead.message) == ("g", "invalid_event", "why")
    assert dead.left_out is None


def test_headers_a_sender_forged_stay_the_senders_own() -> None:
    forged = dead_letter(record(b"{}"), "forged", MalformedRecord("forged")).headers
    came = record(b"{}", *forged, ("heirloom_left-out", b"forged"))
    dead = read_dead_letter(received(dead_letter(came, "g", InvalidEvent("why"))))
    assert dead is not None
    assert (dead.group, dead.message, dead.left_out) == ("g", "why", None)
    assert replayed(dead).headers == (
        *came.headers,
        ("heirloom_original-position", b"train-requested/3/17/1734512345678"),
    )


def test_dead_letter_that_is_not_whole_says_what_is_left_out() -> None:
    dead = read_dead_letter(received(empty_dead_letter(record(b"{}", *OWN), "g", InvalidEvent())))
    assert dead is not None
    assert dead.left_out is not None and "value" in dead.left_out
    assert dead.original.position == "train-requested/3/17"


@pytest.mark.parametrize("headers", [(), OWN])
def test_record_somebody_else_put_there_is_no_dead_letter(headers: tuple[Header, ...]) -> None:
    assert read_dead_letter(record(b"{}", *headers)) is None


def test_dead_letter_with_numbers_of_a_wrong_length_is_no_dead_letter() -> None:
    headers = dead_letter(record(b"{}"), "g", InvalidEvent()).headers
    short = tuple((n, b"\x00" if n == "kafka_dlt-original-offset" else v) for n, v in headers)
    assert read_dead_letter(record(b"{}", *short)) is None


def received(dead: Publication) -> Record:
    """The dead letter as it is read again."""
    return record(dead.value, *dead.headers, topic=dead.topic, key=dead.key)
