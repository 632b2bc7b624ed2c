"""Dead letters: records that cannot be used, kept as they came, with the reason in the headers.

Header names and encodings are those of Spring's DeadLetterPublishingRecoverer: partitions are
int32, offsets and timestamps int64, big-endian; the rest is UTF-8. The reason is in the last
headers of a dead letter. Headers of the same names before them were sent by the record's sender.
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


class DeadLetter(Frozen):
    """A dead letter as read back: the original record, and why it was set aside.

    `left_out` says which part of the record could not be kept; such a record cannot be replayed.
    """

    original: Record
    group: str
    error: str
    message: str
    code: str
    left_out: str | None


def dead_letter(record: Record, group: str, error: ModelServerError) -> Publication:
    """Build the dead letter of a record: same key, value and headers, then the reason.

    It goes to the record's partition number; if the dead-letter topic has no such partition, to
    any other, so that a topic with too few partitions blocks nothing. The headers name the original
    partition in both cases.
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


def empty_dead_letter(record: Record, group: str, error: ModelServerError) -> Publication:
    """Build a dead letter without key, value and headers, for a record too large for its topic.

    A compressed record can be too large: the broker measures it compressed, the client
    uncompressed. The dead letter names the record's position, where the record itself stays for
    as long as its topic retains it.
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


def read_dead_letter(record: Record) -> DeadLetter | None:
    """Read a record of a dead-letter topic; None if ModelServer did not write it."""
    headers = record.headers
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
        key=record.key,
        value=record.value,
        headers=headers[: -len(_NAMES)],
        timestamp_ms=int.from_bytes(timestamp, "big", signed=True),
        timestamp_type=kinds[kind],
    )
    return DeadLetter(
        original=original, group=group, error=error, message=message, code=code, left_out=left_out
    )


def replayed(dead: DeadLetter) -> Publication:
    """Build the original record again, to send it once more: same key, value, headers, partition.

    A record without an event id gets one more header, which keeps it the same event.
    """
    record = with_identity(dead.original)
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
