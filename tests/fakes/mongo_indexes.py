"""What is in an index of the fake store, and under which key."""

from typing import Any

from tests.fakes.mongo_language import MISSING, Document, NotInTheFake, kind, value_at

DUPLICATE_KEY = 11000


def is_in(index: Document, document: Document) -> bool:
    condition = index.get("partialFilterExpression", {})
    return all(value_at(document, name) == wanted for name, wanted in condition.items())


def key_of(index: Document, document: Document) -> tuple[Any, ...]:
    values = [value_at(document, name) for name in index["key"]]
    if any(kind(value) not in ("null", "string") for value in values):
        raise NotInTheFake("a unique index on other than strings")
    return tuple(None if value is MISSING else value for value in values)


def duplicate(index: str, fields: list[str]) -> Document:
    message = f"E11000 duplicate key error index: {index}"
    return {"index": 0, "code": DUPLICATE_KEY, "errmsg": message, "keyPattern": fields}
