"""Dead letters: a record that cannot be used, kept as it came, with the reason in its headers.

Header names and encodings are those of Spring's DeadLetterPublishingRecoverer: partitions are
int32 and offsets and timestamps int64, big-endian; the rest is UTF-8.
"""

import struct

from producers.publisher import Publication
from schemas.errors import ModelServerError
from schemas.record import Header, Record
from schemas.topics import DEAD_LETTER_SUFFIX

PREFIX = "kafka_dlt-"
ERROR_CODE = "heirloom_error-code"
LEFT_OUT = "heirloom_left-out"
_TIMESTAMP_TYPES = {"none": "NoTimestampType", "create": "CreateTime", "append": "LogAppendTime"}


def dead_letter(record: Record, group: str, error: ModelServerError) -> Publication:
    """Build the dead letter of a record: same key, value, headers and partition."""
    lost: tuple[Header, ...] = () if record.is_readable else ((LEFT_OUT, b"headers: no UTF-8"),)
    return Publication(
        topic=record.topic + DEAD_LETTER_SUFFIX,
        key=record.key,
        value=record.value,
        headers=record.headers + lost + _reason(record, group, error),
        partition=record.partition,
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
        headers=(left_out, *_reason(record, group, error)),
        partition=record.partition,
    )


def _reason(record: Record, group: str, error: ModelServerError) -> tuple[Header, ...]:
    return (
        (f"{PREFIX}original-topic", record.topic.encode()),
        (f"{PREFIX}original-partition", struct.pack(">i", record.partition)),
        (f"{PREFIX}original-offset", struct.pack(">q", record.offset)),
        (f"{PREFIX}original-timestamp", struct.pack(">q", record.timestamp_ms)),
        (f"{PREFIX}original-timestamp-type", _TIMESTAMP_TYPES[record.timestamp_type].encode()),
        (f"{PREFIX}original-consumer-group", group.encode()),
        (f"{PREFIX}exception-fqcn", f"{type(error).__module__}.{type(error).__name__}".encode()),
        (f"{PREFIX}exception-message", error.message.encode(errors="replace")),
        (ERROR_CODE, error.code.encode()),
    )
