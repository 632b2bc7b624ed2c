"""Consumed Kafka records for tests."""

from schemas.record import Header, Record


def record(
    value: bytes | None,
    *headers: Header,
    topic: str = "train-requested",
    partition: int = 3,
    offset: int = 17,
    key: bytes | None = b"LXM",
    timestamp_ms: int = 1_734_512_345_678,
) -> Record:
    """Build a record as the consumer hands it on."""
    return Record(
        topic=topic,
        partition=partition,
        offset=offset,
        key=key,
        value=value,
        headers=headers,
        timestamp_ms=timestamp_ms,
        timestamp_type="create",
    )
