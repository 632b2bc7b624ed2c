"""Dead letters: a record that cannot be used, kept as it came, with the reason in its headers.

Header names and encodings are those of Spring's DeadLetterPublishingRecoverer: partitions are
int32 and offsets and timestamps int64, big-endian; the rest is UTF-8. Ours are the last headers
of a letter: what a sender itself sent under these names stands before them, and is its own.
"""

import struct

from producers.publisher import Publication
from schemas.base import Frozen
from schemas.envelope import with_identity
from schemas.errors import ModelServerError
from schemas.record import Header, Record, TimestampType
from schemas.topics import DEAD_LETTER_SUFFIX

PREFIX = "kafka_dlt-"
ERROR_CODE = "heirloom_error-code"
LEFT_OUT = "heirloom_left-out"
_NAMES = (
    f"{PREFIX}original-topic",
    f"{PREFIX}original-partition",
    f"{PREFIX}original-offset",
    f"{PREFIX}original-timestamp",
    f"{PREFIX}original-timestamp-type",
    f"{PREFIX}original-consumer-group",
    f"{PREFIX}exception-fqcn",
    f"{PREFIX}exception-message",
    ERROR_CODE,
)
_TIMESTAMP_TYPES: dict[TimestampType, str] = {
    "none": "NoTimestampType",
    "create": "CreateTime",
    "append": "LogAppendTime",
}


class Letter(Frozen):
    """A dead letter read again: the record as it came, and why it was set aside.

    `left_out` says what of the record could not be kept; it cannot be sent again then.
    """

    original: Record
    group: str
    error: str
    message: str
    code: str
    left_out: str | None


def dead_letter(record: Record, group: str, error: ModelServerError) -> Publication:
    """Build the dead letter of a record: same key, value and headers.

    It keeps its partition where there is one of that number; else it goes to any other, so that a
    topic with too few partitions holds up no record. Its place is in its headers either way.
    """
    lost: tuple[Header, ...] = () if record.is_readable else ((LEFT_OUT, b"headers: no UTF-8"),)
    return Publication(
        topic=record.topic + DEAD_LETTER_SUFFIX,
        key=record.key,
        value=record.value,
        headers=(*record.headers, *_reason(record, group, error), *lost),
        partition=record.partition,
        may_go_elsewhere=True,
    )


def empty_letter(record: Record, group: str, error: ModelServerError) -> Publication:
    """Build the letter of a record that is larger than any letter may be.

    A compressed record can be: the broker measures what it stores, the client what it unpacks.
    It names the record's place, where the record itself stays as long as its topic keeps it.
    """
    left_out = (LEFT_OUT, b"key, value and headers: larger than a dead letter may be")
    return Publication(
        topic=record.topic + DEAD_LETTER_SUFFIX,
        key=None,
        value=None,
        headers=(*_reason(record, group, error), left_out),
        partition=record.partition,
        may_go_elsewhere=True,
    )


def open_letter(letter: Record) -> Letter | None:
    """Read a dead letter; None where somebody else put the record there."""
    headers = letter.headers
    left_out = None
    if headers and headers[-1][0] == LEFT_OUT:
        left_out = (headers[-1][1] or b"").decode(errors="replace")
        headers = headers[:-1]
    ours = headers[-len(_NAMES) :]
    if tuple(name for name, _ in ours) != _NAMES:
        return None
    topic, partition, offset, timestamp, kind, *texts = (value or b"" for _, value in ours)
    kinds = {name.encode(): kind for kind, name in _TIMESTAMP_TYPES.items()}
    if (len(partition), len(offset), len(timestamp)) != (4, 8, 8) or kind not in kinds:
        return None
    group, error, message, code = (text.decode(errors="replace") for text in texts)
    original = Record(
        topic=topic.decode(errors="replace"),
        partition=int.from_bytes(partition, "big", signed=True),
        offset=int.from_bytes(offset, "big", signed=True),
        key=letter.key,
        value=letter.value,
        headers=headers[: -len(_NAMES)],
        timestamp_ms=int.from_bytes(timestamp, "big", signed=True),
        timestamp_type=kinds[kind],
    )
    return Letter(
        original=original, group=group, error=error, message=message, code=code, left_out=left_out
    )


def replayed(letter: Letter) -> Publication:
    """Build the record that repeats what was set aside: same key, value, headers, partition.

    A record without an id gets one header more, by which it stays the same event.
    """
    record = with_identity(letter.original)
    return Publication(
        topic=record.topic,
        key=record.key,
        value=record.value,
        headers=record.headers,
        partition=record.partition,
    )


def _reason(record: Record, group: str, error: ModelServerError) -> tuple[Header, ...]:
    values = (
        record.topic.encode(),
        struct.pack(">i", record.partition),
        struct.pack(">q", record.offset),
        struct.pack(">q", record.timestamp_ms),
        _TIMESTAMP_TYPES[record.timestamp_type].encode(),
        group.encode(),
        f"{type(error).__module__}.{type(error).__name__}".encode(),
        error.message.encode(errors="replace"),
        error.code.encode(),
    )
    return tuple(zip(_NAMES, values, strict=True))
