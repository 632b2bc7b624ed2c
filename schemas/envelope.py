"""CloudEvents 1.0 over Kafka: binary mode out; binary, structured and bare JSON in.

Source: the CloudEvents Kafka protocol binding, 1.0. Binary mode puts the attributes in `ce_*`
headers and the data in the value; structured mode puts both in the value as one JSON object
with content type `application/cloudevents+json`.
"""

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from schemas.base import Frozen, Inbound
from schemas.errors import InvalidEvent, MalformedRecord, MessageTooLarge, RejectError
from schemas.record import Header, Record

SPEC_VERSION = "1.0"
STRUCTURED_CONTENT_TYPE = "application/cloudevents"
JSON_CONTENT_TYPE = b"application/json"
BARE_SOURCE = "kafka"
# Header of a replayed record without an id: its first position and time, which identify it.
ORIGINAL_POSITION = "heirloom_original-position"
_POSITION = re.compile(r"([A-Za-z0-9._-]{1,249}/[0-9]{1,10}/[0-9]{1,19})/([0-9]{1,19})")
# The last second of the year 9999, in unix milliseconds.
_LAST_MS = 253_402_300_799_000
_FAULTS_TOLD = 5
_LONGEST_NAME = 64
_LONGEST_FAULT = 300

EventId = Annotated[str, StringConstraints(min_length=1, max_length=512)]
# How many characters an id made by `id_after` takes from the first id; the rest is for the suffix.
_ID_IN_ID = 440
EventSource = Annotated[str, StringConstraints(min_length=1, max_length=512)]
# W3C Trace Context, level 1: version-traceid-parentid-flags.
TraceParent = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
]


class Envelope(Frozen):
    """The attributes of one received event; `data` is its JSON in UTF-8."""

    id: EventId
    source: EventSource
    type: str
    time: datetime
    traceparent: str | None = None
    data: bytes


class _Structured(Inbound):
    specversion: str
    id: EventId
    source: EventSource
    type: str
    time: datetime | None = None
    traceparent: str | None = None
    data: dict[str, Any]


class OutboundEvent(Frozen):
    """One event to publish. `topic` is the catalogue's name; settings may rename it."""

    topic: str
    key: str
    id: EventId
    source: EventSource
    time: datetime
    data: dict[str, Any]
    traceparent: str | None = None
    sequence: int = 0

    def value(self) -> bytes:
        """Encode the data as JSON in UTF-8."""
        # Not every reader accepts the NaN that Python would write.
        return json.dumps(
            self.data, ensure_ascii=False, separators=(",", ":"), allow_nan=False
        ).encode()

    def headers(self) -> list[Header]:
        """Encode the attributes as binary-mode headers."""
        headers: list[Header] = [
            ("ce_specversion", SPEC_VERSION.encode()),
            ("ce_id", self.id.encode()),
            ("ce_source", self.source.encode()),
            ("ce_type", event_type(self.topic).encode()),
            ("ce_time", format_time(self.time).encode()),
            ("content-type", JSON_CONTENT_TYPE),
        ]
        if self.traceparent:
            headers.append(("traceparent", self.traceparent.encode()))
        return headers


def event_type(topic: str) -> str:
    """Name the CloudEvents type of a topic's events: `heirloom.<topic>.v1`."""
    return f"heirloom.{topic}.v1"


def fingerprint(*names: str) -> str:
    """Hash a list of names to SHA-256 in hex; unlike joined text, no two lists collide."""
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def id_after(event_id: str, kind: str, key: str) -> str:
    """Build the id of an event that another event causes, from that event's id.

    The fingerprint `key` tells apart events that share an id by mistake.
    """
    return f"{event_id[:_ID_IN_ID]}/{kind}/{key[:16]}"


def format_time(time: datetime) -> str:
    """Write a time as RFC 3339 in UTC, to the millisecond."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def describe(error: ValidationError) -> str:
    """Say what is wrong and where, without the value: it may be an elder's words.

    The text is short, however many faults there are and however long a field's name is: it goes
    into headers, and a dead letter must not exceed its topic's limit because of its reason.
    """
    faults = error.errors(include_input=False, include_url=False, include_context=False)
    told = [f"{_place(e['loc'])}: {_clip(e['msg'], _LONGEST_FAULT)}" for e in faults[:_FAULTS_TOLD]]
    if len(faults) > _FAULTS_TOLD:
        told.append(f"and {len(faults) - _FAULTS_TOLD} more")
    return "; ".join(told)


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(_clip(str(part), _LONGEST_NAME) for part in location[:10]) or "the event"


def _clip(text: str, longest: int) -> str:
    """Cut a text short, and replace control characters, which a terminal would obey."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:longest])
    return clean if len(text) <= longest else f"{clean}…"


def refusal(error: ValidationError) -> RejectError:
    """Turn a validation error into MalformedRecord (no JSON) or InvalidEvent (wrong fields)."""
    if any(e["type"] == "json_invalid" for e in error.errors(include_input=False)):
        return MalformedRecord()
    return InvalidEvent(describe(error))


def open_envelope(record: Record, topic: str, max_bytes: int) -> Envelope:
    """Read a record's envelope in whichever mode it was sent.

    `topic` is the catalogue's name of the record's topic, `max_bytes` the largest value accepted.
    Raises MalformedRecord (no JSON object in UTF-8), MessageTooLarge, or InvalidEvent
    (attributes missing or wrong, another type or version).
    """
    if not record.is_readable:
        raise MalformedRecord("the headers' names are no UTF-8; correct the producer")
    if not record.value:
        raise MalformedRecord("the record has no value; send a JSON object")
    if len(record.value) > max_bytes:
        raise MessageTooLarge(f"the record has {len(record.value)} bytes; at most {max_bytes}")
    try:
        envelope = _read(record, topic)
    except ValidationError as error:
        raise refusal(error) from error
    if envelope.type != event_type(topic):
        raise InvalidEvent(f"ce_type: expected {event_type(topic)}")
    return envelope


def with_identity(record: Record) -> Record:
    """Prepare a record for replay, so that it stays the same event at its new position.

    An event with an id is returned unchanged. A bare event is identified by its position, so its
    first position goes into a header.
    """
    content_type = record.header("content-type") or b""
    has_id = record.header("ce_id") is not None
    is_structured = content_type.startswith(STRUCTURED_CONTENT_TYPE.encode())
    if has_id or is_structured or record.header(ORIGINAL_POSITION) is not None:
        return record
    place = (ORIGINAL_POSITION, f"{record.position}/{record.timestamp_ms}".encode())
    return record.model_copy(update={"headers": (*record.headers, place)})


def _first_place(record: Record) -> tuple[str, int]:
    """Return a bare record's first position, and its time there in unix milliseconds."""
    told = _text(record, ORIGINAL_POSITION)
    if told is None:
        return record.position, record.timestamp_ms
    found = _POSITION.fullmatch(told)
    if found is None:
        raise InvalidEvent(f"{ORIGINAL_POSITION}: expected topic/partition/offset/milliseconds")
    return found[1], int(found[2])


def _read(record: Record, topic: str) -> Envelope:
    assert record.value is not None
    content_type = _text(record, "content-type") or ""
    if content_type.startswith(STRUCTURED_CONTENT_TYPE):
        return _read_structured(record)
    if record.header("ce_id") is None:
        position, timestamp_ms = _first_place(record)
        return Envelope(
            id=position,
            # An offset alone is not unique for ever: a recreated topic begins at 0 again.
            source=f"{BARE_SOURCE}/{timestamp_ms}",
            type=event_type(topic),
            time=_to_time(timestamp_ms),
            traceparent=_trace(_text(record, "traceparent")),
            data=record.value,
        )
    _require_version(_text(record, "ce_specversion"))
    return Envelope(
        id=_text(record, "ce_id") or "",
        source=_text(record, "ce_source") or "",
        type=_text(record, "ce_type") or "",
        time=_parse_time(_text(record, "ce_time")) or _record_time(record),
        traceparent=_trace(_text(record, "traceparent") or _text(record, "ce_traceparent")),
        data=record.value,
    )


def _read_structured(record: Record) -> Envelope:
    event = _Structured.model_validate_json(record.value or b"")
    _require_version(event.specversion)
    return Envelope(
        id=event.id,
        source=event.source,
        type=event.type,
        time=_aware(event.time) if event.time else _record_time(record),
        traceparent=_trace(_text(record, "traceparent") or event.traceparent),
        data=json.dumps(event.data).encode(),
    )


def _text(record: Record, name: str) -> str | None:
    raw = record.header(name)
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedRecord(f"header {name}: not UTF-8; correct the producer") from error


def _require_version(version: str | None) -> None:
    if version != SPEC_VERSION:
        raise InvalidEvent(f"ce_specversion: expected {SPEC_VERSION}")


_TIME = TypeAdapter(Annotated[datetime, Field(strict=False)])
_TRACE = TypeAdapter(TraceParent)


def _parse_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return _aware(_TIME.validate_python(text))
    except ValidationError as error:
        raise InvalidEvent("ce_time: expected a time as in RFC 3339") from error


def _trace(text: str | None) -> str | None:
    # An invalid trace header costs the trace, never the event.
    try:
        return _TRACE.validate_python(text) if text else None
    except ValidationError:
        return None


def _aware(time: datetime) -> datetime:
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError as error:  # The first or last hours that a datetime can hold.
        raise InvalidEvent("time: out of range") from error


def _record_time(record: Record) -> datetime:
    return _to_time(record.timestamp_ms)


def _to_time(timestamp_ms: int) -> datetime:
    # A producer may write any number as the timestamp; that is no reason to lose the event.
    milliseconds = min(max(timestamp_ms, 0), _LAST_MS)
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
