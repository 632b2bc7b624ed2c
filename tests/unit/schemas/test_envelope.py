"""Envelopes: three modes in, one out, and each fault named without quoting anybody."""

import json
import math
from datetime import UTC, datetime

import pytest

from schemas.envelope import (
    Envelope,
    OutboundEvent,
    format_time,
    open_envelope,
    with_identity,
)
from schemas.errors import (
    InvalidEvent,
    MalformedRecord,
    MessageTooLarge,
    ModelServerError,
    OverridesOutOfBounds,
)
from schemas.events import AnswersUpdated, apply_overrides, read_event
from schemas.record import Header, Record
from schemas.training import TrainingParameters
from tests.fakes.records import record

TOPIC = "train-requested"
TYPE = f"heirloom.{TOPIC}.v1"
BODY = b'{"elder_id":"LXM"}'
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
BINARY: dict[str, bytes | None] = {
    "ce_id": b"7",
    "ce_source": b"/upstream",
    "ce_specversion": b"1.0",
    "ce_type": TYPE.encode(),
    "ce_time": b"2024-12-18T08:59:05Z",
}


def opened(received: Record) -> Envelope:
    return open_envelope(received, TOPIC, 1000)


def binary(value: bytes | None = BODY, **changes: bytes | None) -> Record:
    headers: list[Header] = [(k, v) for k, v in (BINARY | changes).items() if v is not None]
    return record(value, *headers)


def structured(**changes: object) -> Record:
    event: dict[str, object] = {
        "specversion": "1.0",
        "id": "7",
        "source": "/upstream",
        "type": TYPE,
        "data": {"elder_id": "李"},
    }
    event = {k: v for k, v in (event | changes).items() if v is not None}
    content_type = ("content-type", b"application/cloudevents+json; charset=utf-8")
    return record(json.dumps(event).encode(), content_type)


def test_binary_mode_is_read_from_its_headers() -> None:
    envelope = opened(binary())
    assert (envelope.id, envelope.source, envelope.type) == ("7", "/upstream", TYPE)
    assert envelope.time == datetime(2024, 12, 18, 8, 59, 5, tzinfo=UTC)
    assert envelope.data == BODY


def test_structured_mode_is_read_from_its_value() -> None:
    envelope = opened(structured(time="2024-12-18T16:59:05+08:00", traceparent=TRACE))
    assert (envelope.id, envelope.source, envelope.traceparent) == ("7", "/upstream", TRACE)
    assert envelope.time == datetime(2024, 12, 18, 8, 59, 5, tzinfo=UTC)
    assert json.loads(envelope.data) == {"elder_id": "李"}


def test_bare_json_is_named_by_its_position_and_the_records_time() -> None:
    envelope = opened(record(BODY))
    assert (envelope.id, envelope.source) == (f"{TOPIC}/3/17", "kafka/1734512345678")
    assert envelope.time.timestamp() == pytest.approx(1_734_512_345.678)


def test_time_that_is_missing_is_the_records() -> None:
    assert opened(binary(ce_time=None)).time == opened(record(BODY)).time
    assert opened(structured()).time == opened(record(BODY)).time


def test_time_without_zone_is_utc() -> None:
    assert opened(binary(ce_time=b"2024-12-18T08:59:05")).time.tzinfo is UTC


@pytest.mark.parametrize("milliseconds", [0, -1, 2**63 - 1])
def test_no_timestamp_of_a_record_is_a_reason_to_lose_it(milliseconds: int) -> None:
    assert opened(record(BODY, timestamp_ms=milliseconds)).time.tzinfo is UTC


@pytest.mark.parametrize(
    ("received", "error"),
    [
        (record(None), MalformedRecord),
        (record(b""), MalformedRecord),
        (record(BODY).model_copy(update={"is_readable": False}), MalformedRecord),
        (record(b"x" * 1001), MessageTooLarge),
        (binary(ce_id=b"\xff"), MalformedRecord),
        (binary(ce_id=b""), InvalidEvent),
        (binary(ce_id=b"i" * 513), InvalidEvent),
        (binary(ce_source=None), InvalidEvent),
        (binary(ce_type=None), InvalidEvent),
        (binary(ce_type=b"heirloom.answers-updated.v1"), InvalidEvent),
        (binary(ce_type=b"heirloom.train-requested.v2"), InvalidEvent),
        (binary(ce_specversion=b"0.3"), InvalidEvent),
        (binary(ce_specversion=None), InvalidEvent),
        (binary(ce_time=b"yesterday"), InvalidEvent),
        (binary(ce_time=b"0001-01-01T00:00:00+14:00"), InvalidEvent),
        (binary(ce_time=b"9999-12-31T23:59:59-14:00"), InvalidEvent),
        (structured(id=None), InvalidEvent),
        (structured(id=7), InvalidEvent),
        (structured(data=None), InvalidEvent),
        (structured(data=[1]), InvalidEvent),
        (structured(specversion="2.0"), InvalidEvent),
        (structured(type="other"), InvalidEvent),
        (structured(time="0001-01-01T00:00:00+14:00"), InvalidEvent),
        (record(b"\xff", ("content-type", b"application/cloudevents+json")), MalformedRecord),
        (
            record(rb'{"id":"\ud800"}', ("content-type", b"application/cloudevents")),
            MalformedRecord,
        ),
        (record(BODY, ("content-type", b"\xff")), MalformedRecord),
    ],
)
def test_fault_of_an_envelope_is_refused(received: Record, error: type[ModelServerError]) -> None:
    with pytest.raises(error):
        opened(received)


def test_value_of_just_the_limit_is_read() -> None:
    assert opened(record(b" " * 998 + b"{}")).data.endswith(b"{}")


def test_number_that_json_does_not_know_is_never_sent() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    event = OutboundEvent(topic="t", key="k", id="1", source="s", time=at, data={"x": math.nan})
    with pytest.raises(ValueError, match="JSON"):
        event.value()


def test_refusal_names_the_field_and_never_the_value() -> None:
    with pytest.raises(InvalidEvent) as caught:
        opened(structured(id=["secret words"]))
    assert "id" in caught.value.message
    assert "secret" not in caught.value.message


def test_last_header_of_a_name_counts() -> None:
    headers: list[Header] = [("ce_id", b"first"), *BINARY.items()]
    assert opened(record(BODY, *headers)).id == "7"


@pytest.mark.parametrize("header", ["traceparent", "ce_traceparent"])
def test_trace_is_carried(header: str) -> None:
    assert opened(binary(**{header: TRACE.encode()})).traceparent == TRACE


@pytest.mark.parametrize("trace", ["", "00-xyz", TRACE + "\n", "a" * 4000])
def test_broken_trace_loses_the_trace_and_not_the_event(trace: str) -> None:
    assert opened(binary(traceparent=trace.encode())).traceparent is None


def test_what_is_sent_can_be_read_again() -> None:
    event = OutboundEvent(
        topic=TOPIC,
        key="LXM",
        id="7",
        source="/here",
        time=datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
        data={"elder_name": "李秀梅"},
        traceparent=TRACE,
    )
    envelope = opened(record(event.value(), *event.headers()))
    assert (envelope.id, envelope.source, envelope.time) == ("7", "/here", event.time)
    assert envelope.traceparent == TRACE
    assert "李秀梅".encode() in envelope.data


def test_time_is_written_in_utc_to_the_millisecond() -> None:
    assert format_time(datetime(2026, 1, 2, 3, 4, 5, 678999, tzinfo=UTC)) == (
        "2026-01-02T03:04:05.678Z"
    )


def test_refusal_stays_short_however_many_fields_are_wrong_and_whatever_their_names() -> None:
    """It goes into the dead letter's headers, which must not outgrow the topic."""
    overrides = {f"\x1b[2J{number}" + "k" * 5000: number for number in range(2000)}
    with pytest.raises(OverridesOutOfBounds) as caught:
        apply_overrides(TrainingParameters(), overrides)
    assert len(caught.value.message) < 1000
    assert "and 1995 more" in caught.value.message
    assert caught.value.message.isprintable()


def test_list_of_wrong_items_is_refused_at_its_first() -> None:
    body = b'{"elder_id":"L","answer_ids":[' + b",".join([b"1"] * 100_000) + b"]}"
    envelope = open_envelope(record(body, topic="answers-updated"), "answers-updated", 2**20)
    with pytest.raises(InvalidEvent) as caught:
        read_event(envelope, AnswersUpdated)
    assert caught.value.message == "answer_ids.0: Input should be a valid string"


def test_bare_record_sent_again_stays_the_same_event() -> None:
    came = record(BODY, offset=17)
    again = with_identity(came).model_copy(update={"offset": 99, "timestamp_ms": 5})
    assert opened(again) == opened(came)
    assert opened(with_identity(again).model_copy(update={"offset": 100})) == opened(came)


@pytest.mark.parametrize("came", [binary(), structured()])
def test_event_with_an_id_is_sent_again_as_it_came(came: Record) -> None:
    assert with_identity(came) == came


@pytest.mark.parametrize("place", [b"", b"a/b", b"t/1/2/x", b"t/1/2/3\n", b"t/1/2/" + b"9" * 20])
def test_place_that_is_none_is_refused(place: bytes) -> None:
    with pytest.raises(InvalidEvent):
        opened(record(BODY, ("heirloom_original-position", place)))
