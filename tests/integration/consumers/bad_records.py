"""Records that every consumer must refuse, and the error code that each one gets."""

from schemas.record import Record
from tests.integration.service import Service

MIB = 1024 * 1024
BAD_RECORDS: dict[str, tuple[object, str]] = {
    "not UTF-8": (b'{"elder_id": "\xff"}', "malformed_record"),
    "no JSON": (b"hello", "malformed_record"),
    "JSON cut off": (b'{"elder_id": "LXM"', "malformed_record"),
    "half a surrogate pair": (rb'{"elder_id": "L", "elder_name": "\ud800"}', "malformed_record"),
    "no object": (b"[1, 2]", "invalid_event"),
    "no value": (None, "malformed_record"),
    "empty value": (b"", "malformed_record"),
    "1 MiB and more": (b'{"elder_id": "' + b"L" * MIB + b'"}', "message_too_large"),
    "a name of nearly 1 MiB": (
        b'{"elder_id": "L", "elder_name": "' + b"n" * (MIB - 100) + b'"}',
        "invalid_event",
    ),
    "field missing": ({"elder_name": "x"}, "invalid_event"),
    "wrong type": ({"elder_id": 5, "elder_name": "x"}, "invalid_event"),
    "path in the id": ({"elder_id": "../../etc", "elder_name": "x"}, "invalid_event"),
    "operator in the id": ({"elder_id": {"$ne": None}, "elder_name": "x"}, "invalid_event"),
    "line break in the id": ({"elder_id": "LXM\n", "elder_name": "x"}, "invalid_event"),
    "NUL in the id": ({"elder_id": "LXM\0", "elder_name": "x"}, "invalid_event"),
}


def send_all(service: Service, topic: str, cases: dict[str, tuple[object, str]]) -> None:
    """Send each case, named in a header."""
    for case, (data, _) in cases.items():
        service.send(topic, data, ("case", case.encode()))


def codes_of_all(
    service: Service, topic: str, cases: dict[str, tuple[object, str]]
) -> dict[str, str]:
    """Wait for the dead letter of each case; return their error codes."""
    return {case: code_of(service.dead_letter(topic, case)) for case in cases}


def wanted_codes(cases: dict[str, tuple[object, str]]) -> dict[str, str]:
    """Return the error code that each case must get."""
    return {case: code for case, (_, code) in cases.items()}


def code_of(dead_letter: Record) -> str:
    """Return the error code of a dead letter."""
    return (dead_letter.header("heirloom_error-code") or b"").decode()
