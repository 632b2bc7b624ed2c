"""From the Kafka client's message to our own record."""

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, Message

from schemas.record import Header, Record, TimestampType

_TIMESTAMP_TYPES: dict[int, TimestampType] = {
    TIMESTAMP_CREATE_TIME: "create",
    TIMESTAMP_LOG_APPEND_TIME: "append",
}


def to_record(message: Message) -> Record:
    """Convert a client's message; a tombstone's value is None.

    A record whose headers cannot be decoded has none, and `is_readable` is False.
    """
    kind, milliseconds = message.timestamp()
    headers = _headers(message)
    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=_bytes(message.key()),
        value=_bytes(message.value()),
        headers=headers or (),
        timestamp_ms=max(milliseconds, 0),
        timestamp_type=_TIMESTAMP_TYPES.get(kind, "none"),
        is_readable=headers is not None,
    )


def _headers(message: Message) -> tuple[Header, ...] | None:
    """Return the headers, or None if a header's name is not UTF-8.

    Kafka allows any bytes as a name, so any sender can write one. The client (2.16) raises
    SystemError for it; the result of a second call must not be used.
    """
    try:
        return tuple((name, _bytes(value)) for name, value in message.headers() or ())
    except (SystemError, UnicodeError):
        return None


def _bytes(value: object) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode()
