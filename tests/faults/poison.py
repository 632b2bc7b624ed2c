"""Bad records, drawn from a seed: the same seed gives the same records.

A record is a value in an envelope under a key. Chance makes each of the three good or bad, so that
most records have one fault and some have several.
"""

import random
import struct
from collections.abc import Iterator

from schemas.base import Frozen
from schemas.record import Header
from tests.faults.values import HEAVY, MIB, to_json, value_for

Random = random.Random

PARTITIONS = 12
CASE = "case"
_VALID = {"answers-updated": 0.05, "train-requested": 0.02, "chat-requests": 0.15}
_VALID_COMMANDS = 0.15


class Poison(Frozen):
    """One record to send; its number `case` is also in a header of that name."""

    case: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    partition: int


def poison(topic: str, count: int, seed: int, *, prefix: str = "") -> Iterator[Poison]:
    """Yield `count` records for an inbound topic; `prefix` precedes the broker's topic names."""
    rng = Random(f"{seed}/{topic}")
    for case in range(count):
        is_valid = rng.random() < _VALID.get(topic, _VALID_COMMANDS)
        spoilt = rng.choice(["value", "value", "envelope", "both"])
        value = value_for(rng, topic, good=is_valid or spoilt == "envelope")
        good_envelope = is_valid or spoilt == "value"
        headers = _envelope(rng, topic, case, good=good_envelope)
        if topic in ("chat-requests", "model-commands"):
            headers += _reply_to(rng, case, prefix, good=good_envelope)
        if good_envelope and value and rng.random() < 0.1:
            value, headers = _structured(topic, case, value, headers)
        yield Poison(
            case=case,
            key=_key(rng, good=is_valid),
            value=value,
            headers=(*headers, (CASE, str(case).encode())),
            partition=rng.randrange(PARTITIONS),
        )


# Envelopes ----------------------------------------------------------------------------------


def _key(rng: Random, *, good: bool) -> bytes | None:
    if good or rng.random() < 0.8:
        return f"K{rng.randrange(200)}".encode()
    if rng.random() < HEAVY:
        return b"k" * MIB
    return rng.choice([None, b"", b"\x00", b"\xff\xfe", rng.randbytes(40), b"k" * 5000])


def _binary(topic: str, case: int) -> dict[str, bytes | None]:
    return {
        "ce_id": f"case-{case}".encode(),
        "ce_source": b"poison",
        "ce_specversion": b"1.0",
        "ce_type": f"heirloom.{topic}.v1".encode(),
        "ce_time": b"2026-01-02T03:04:05Z",
        "content-type": b"application/json",
        "traceparent": b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
    }


def _envelope(rng: Random, topic: str, case: int, *, good: bool) -> tuple[Header, ...]:
    binary = _binary(topic, case if rng.random() < 0.98 else 0)
    if good:
        return tuple(binary.items()) if rng.random() < 0.5 else ()
    kind = rng.randrange(5)
    if kind == 0:  # one attribute has a bad value
        return tuple((binary | {rng.choice(list(binary)): _junk(rng)}).items())
    if kind == 1:  # one attribute is missing
        gone = rng.choice(list(binary))
        return tuple((name, value) for name, value in binary.items() if name != gone)
    if kind == 2:  # one attribute is there twice, and the order is random
        twice = [*binary.items(), (rng.choice(list(binary)), _junk(rng))]
        rng.shuffle(twice)
        return tuple(twice)
    if kind == 3:  # the content type promises a structured event
        odd = rng.choice([b"application/cloudevents+json", b"application/cloudevents", b"\xff"])
        return (("content-type", odd),)
    names = [*binary, "", "kafka_dlt-original-topic", "heirloom_original-position", "ce_", "李"]
    return tuple((rng.choice(names), _junk(rng)) for _ in range(rng.randint(0, 30)))


def _junk(rng: Random) -> bytes | None:
    if rng.random() < HEAVY:
        return b"h" * (MIB // 2)
    return rng.choice(
        [
            None,
            b"",
            b"\x00",
            b"\xff\xfe\xfd",
            b"x" * rng.choice([1, 512, 513, 3000]),
            b"1.0",
            b"9999-12-31T23:59:59-14:00",
            b"0001-01-01T00:00:00+14:00",
            b"1e999",
            b"heirloom.other.v9",
            b"t/1/2/3",
            b"t/1/99999999999999999999/3",
            rng.randbytes(rng.randrange(1, 60)),
        ]
    )


def _structured(
    topic: str, case: int, value: bytes, headers: tuple[Header, ...]
) -> tuple[bytes, tuple[Header, ...]]:
    attributes = {
        "specversion": "1.0",
        "id": f"case-{case}",
        "source": "poison/structured",
        "type": f"heirloom.{topic}.v1",
    }
    whole = to_json(attributes)[:-1] + b', "data": ' + value + b"}"
    kept = tuple(h for h in headers if h[0].startswith("kafka_"))
    return whole, (*kept, ("content-type", b"application/cloudevents+json"))


def _reply_to(rng: Random, case: int, prefix: str, *, good: bool) -> tuple[Header, ...]:
    headers: list[Header] = []
    if rng.random() < 0.6:
        tail = rng.choice([b"", b"\xff\x00", rng.randbytes(16)])
        headers.append(("kafka_correlationId", str(case).encode() + tail))
    if good or rng.random() < 0.5:
        return tuple(headers)
    ours = f"{prefix}chat-replies".encode()
    allowed = f"{prefix}family.replies".encode()
    refused = (b"", b"\xff", b"a\x00-replies", b"a" * 600 + b"-replies", b"answers-updated", b"..")
    headers.append(("kafka_replyTopic", rng.choice([ours, ours, allowed, allowed, *refused])))
    number = rng.choice([0, 3, 11, 12, 4000, 2**31 - 1])
    odd = (b"7", b"-1", b"999999999", b"x", None, b"\xff" * 4, struct.pack(">q", 1))
    headers.append(("kafka_replyPartition", rng.choice([struct.pack(">i", number), *odd])))
    return tuple(headers)
