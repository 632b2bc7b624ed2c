"""Request and reply over Kafka, in the protocols of Spring's ReplyingKafkaTemplate and NestJS.

Source: `KafkaHeaders` of Spring for Apache Kafka and `KafkaHeaders` of @nestjs/microservices.
"""

import hashlib

from schemas.base import Frozen
from schemas.envelope import Envelope, fingerprint, id_after
from schemas.record import Header, Record

CORRELATION_ID = "kafka_correlationId"
REPLY_TOPIC = "kafka_replyTopic"
REPLY_PARTITION = "kafka_replyPartition"
NEST_IS_DISPOSED = "kafka_nest-is-disposed"
NEST_ERROR = "kafka_nest-err"
STREAM_SEQUENCE = "seq"
STREAM_FINAL = "final"


class ReplyTarget(Frozen):
    """Where a reply goes and what it carries back untouched.

    `topic` is None if the request named none; the reply then goes to the default topic.
    `correlation_id` is opaque bytes (Spring sends a raw UUID) and is never decoded.
    """

    topic: str | None
    partition: int | None
    correlation_id: bytes | None
    key: bytes | None

    def headers(self, *, final: bool, error: str | None, sequence: int | None) -> list[Header]:
        """Build the protocol headers of one reply; `sequence` only for streams."""
        headers: list[Header] = []
        if self.correlation_id is not None:
            headers.append((CORRELATION_ID, self.correlation_id))
        if error is not None:
            headers.append((NEST_ERROR, error.encode()))
        if final:
            headers.append((NEST_IS_DISPOSED, b"\x00"))
        if sequence is not None:
            headers += [
                (STREAM_SEQUENCE, str(sequence).encode()),
                (STREAM_FINAL, b"true" if final else b"false"),
            ]
        return headers


def request_key(envelope: Envelope, record: Record) -> str:
    """Identify a request: only a byte-for-byte repeat has the same key.

    Source and id are not enough. A sender that restarts its numbering uses them twice, and the
    reply to one family would go to another.
    """
    content = hashlib.sha256(record.value or b"").hexdigest()
    return fingerprint(envelope.source, envelope.id, content)


def reply_id(event_id: str, key: str, part: int | None = None) -> str:
    """Build the event id of a reply, or of one part of it; a repeat has the same id."""
    name = id_after(event_id, "reply", key)
    return name if part is None else f"{name}/{part}"


def read_target(record: Record) -> ReplyTarget:
    """Read where a request wants its reply; an unreadable header counts as absent."""
    raw = record.header(REPLY_TOPIC)
    return ReplyTarget(
        topic=raw.decode(errors="replace") if raw else None,
        partition=decode_partition(record.header(REPLY_PARTITION)),
        correlation_id=record.header(CORRELATION_ID),
        key=record.key,
    )


def decode_partition(raw: bytes | None) -> int | None:
    """Decode a partition: 4 bytes big-endian (Spring) or ASCII digits (NestJS), else None.

    The first byte tells four ASCII digits from a binary partition: 0x30 or more would make a
    binary partition greater than 800 million.
    """
    if not raw:
        return None
    if len(raw) == 4 and raw[0] < 0x30:
        return int.from_bytes(raw, "big")
    return int(raw) if raw.isdigit() and len(raw) <= 9 else None
