"""Values for a topic: what its reader accepts, and what it must reject without harm."""

import json
import random
from collections.abc import Callable
from typing import Any

Random = random.Random
Data = dict[str, Any]

KNOWN_ELDER = "POISON1"
MIB = 1024 * 1024
# Values of a MiB are rare: the broker keeps each one twice, in its topic and as a dead letter.
HEAVY = 0.001
_COMMANDS = (
    *("list", "get", "delete", "rollback", "export_jsonl"),
    *("job", "jobs", "cancel_job", "prioritize_job", "hurry_job"),
)


def good_data(rng: Random, topic: str) -> Data:
    """Return data that the topic's reader accepts."""
    elder = rng.choice([KNOWN_ELDER, "STRANGER", f"E{rng.randrange(1000)}"])
    match topic:
        case "answers-updated":
            return {"elder_id": KNOWN_ELDER, "elder_name": "李秀梅", "answer_ids": ["a", "b"]}
        case "train-requested":
            # Few have no job id: for each of these the ledger looks for the next free one.
            named = f"job-{rng.randrange(10**9)}"
            job = rng.choices([None, "shared-job", named], [0.05, 0.02, 0.93])[0]
            elder = f"NOBODY{rng.randrange(50)}"  # She has no answers, so the job fails at once.
            overrides = rng.choice([{}, {"epochs": 2}, {"lora": {"rank": 8}}])
            return {"elder_id": elder, "elder_name": "x", "job_id": job, "overrides": overrides}
        case "chat-requests":
            history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            return {
                "elder_id": elder,
                "message": "您的老家在哪里？",
                "conversation_history": rng.choice([[], history]),
                "stream": rng.random() < 0.3,
                "options": rng.choice([{}, {"temperature": 0.5, "deadline_ms": 30_000}]),
            }
        case _:
            job = f"job-{rng.randrange(100)}"
            return {"command": rng.choice(_COMMANDS), "elder_id": elder, "job_id": job}


def value_for(rng: Random, topic: str, *, good: bool) -> bytes | None:
    """Return a value that is good or bad; None is a tombstone."""
    data = good_data(rng, topic)
    if good:
        return json.dumps(data, ensure_ascii=rng.random() < 0.5).encode()
    if rng.random() < HEAVY:
        return rng.choice(_HEAVY_VALUES)(rng, data)
    return rng.choice(_BAD_VALUES)(rng, data)


def to_json(data: Data) -> bytes:
    """Return data as JSON in UTF-8."""
    return json.dumps(data, ensure_ascii=False).encode()


def _with(rng: Random, data: Data, raw: bytes) -> bytes:
    """Put raw JSON in the place of a field's value, or into an unknown field."""
    field = rng.choice([*data, "unknown"])
    rest = to_json({k: v for k, v in data.items() if k != field})
    return b"%s, %s: %s}" % (rest[:-1] or b"{", json.dumps(field).encode(), raw)


def _mutated(rng: Random, data: Data) -> bytes:
    raw = bytearray(to_json(data))
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(raw))
        match rng.randrange(3):
            case 0:
                raw[place] = rng.randrange(256)
            case 1:
                raw.insert(place, rng.randrange(256))
            case _:
                del raw[place : place + rng.randint(1, 3)]
        raw = raw or bytearray(b"{")
    return bytes(raw)


def _nested(rng: Random, data: Data) -> bytes:
    depth = rng.choice([10, 100, 199, 200, 201, 255, 300, 1000, 5000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return _with(rng, data, opening * depth + b"1" + closing * depth)


def _numbers(rng: Random, data: Data) -> bytes:
    digits = rng.choice([10, 19, 20, 40, 309, 4000, 4299, 4300, 4301, 5000])
    huge = b"9" * digits
    odd = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1E-999", b"-0", b"0x1", b"01")
    return _with(rng, data, rng.choice([huge, b"-" + huge, b"0." + huge, *odd]))


def _texts(rng: Random, data: Data) -> bytes:
    raw = (
        rb'"\ud800"',
        rb'"\udc00\ud800"',
        rb'"\u0000"',
        b'"\x00"',
        b'"\xed\xa0\x80"',
        b'"\xff\xfe"',
        '"\u202e\u200b\ufeff"'.encode(),
        rb'"\x41"',
        b'"a\nb"',
        rb'"LXM\n"',
        b'"../../etc/passwd"',
        b'"[/red]"',
        b'"' + b"x" * rng.choice([64, 65, 200, 201, 8000, 8001, 20000]) + b'"',
    )
    return _with(rng, data, rng.choice(raw))


def _wrong_types(rng: Random, data: Data) -> bytes:
    raw = (
        b"null",
        b"true",
        b"[]",
        b"{}",
        b"1",
        b"1.5",
        b'""',
        b'{"$ne": null}',
        b"[[1]]",
        b'["x"]',
    )
    return _with(rng, data, rng.choice(raw))


def _fields(rng: Random, data: Data) -> bytes:
    """Return data with a field left out, a field given twice, or many unknown fields."""
    field = rng.choice(list(data))
    match rng.randrange(3):
        case 0:
            return to_json({k: v for k, v in data.items() if k != field})
        case 1:
            return to_json(data)[:-1] + b', "%s": 7}' % field.encode()
        case _:
            return to_json({f"\x1b[/x]{n}": n for n in range(300)} | {"overrides": data})


def _whole(rng: Random, data: Data) -> bytes | None:
    text = json.dumps(data, ensure_ascii=False)
    return rng.choice(
        [
            None,
            b"",
            b" ",
            b"null",
            b"1",
            b'"x"',
            b"[]",
            b"{}",
            b"{",
            b"]" * 50,
            text.encode()[: rng.randrange(len(text))],
            text.encode("utf-8-sig"),
            text.encode("utf-16"),
            text.encode("utf-32"),
            text.encode() * 2,
            text.encode() + b"\x00",
            rng.randbytes(rng.randrange(1, 600)),
        ]
    )


_BAD_VALUES: tuple[Callable[[Random, Data], bytes | None], ...] = (
    _mutated,
    _mutated,
    _nested,
    _numbers,
    _texts,
    _wrong_types,
    _fields,
    _whole,
)
_HEAVY_VALUES: tuple[Callable[[Random, Data], bytes], ...] = (
    lambda rng, data: b"[" * 100_000,
    lambda rng, data: _with(rng, data, b"[" * 100_000 + b"]" * 100_000),
    lambda rng, data: _with(rng, data, b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    lambda rng, data: _with(rng, data, b"9" * 500_000),
    lambda rng, data: _with(rng, data, b'"' + b"x" * (MIB - 1000) + b'"'),
    lambda rng, data: _with(rng, data, b'"' + b"x" * (MIB + 1000) + b'"'),
    lambda rng, data: _with(rng, data, b"[" + b"1," * 300_000 + b"1]"),
    lambda rng, data: rng.randbytes(MIB * 3 // 2),
    lambda rng, data: to_json(data | {"overrides": {f"k{n}": n for n in range(50_000)}}),
    lambda rng, data: to_json(
        data | {"conversation_history": [7] * 300_000, "answer_ids": [7] * 9}
    ),
)
