"""Documents as the fake store keeps and returns them: as BSON, in order, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import bson
from bson.codec_options import CodecOptions
from pymongo import ASCENDING

from tests.fakes.mongo_language import Document, NotInTheFake, kind, value_at

_AWARE: CodecOptions[Document] = CodecOptions(tz_aware=True)
# How BSON orders values of different types.
_RANKS = {"null": 0, "number": 1, "string": 2, "bool": 4, "date": 5}


class FakeCursor:
    """What was found, in order, read once and late as a real cursor's documents are."""

    def __init__(
        self, read: Callable[[], list[tuple[bytes, Document]]], projection: Document | None
    ) -> None:
        if projection is not None and set(projection.values()) != {1}:
            raise NotInTheFake(f"projection {projection}")
        self._read = read
        self._fields = None if projection is None else {"_id", *projection}
        self._sort: list[tuple[str, int]] = []
        self._limit: int | None = None
        self._skip = 0

    def sort(self, key: str | list[tuple[str, int]], direction: int = ASCENDING) -> FakeCursor:
        """Order by one field or by several."""
        self._sort = [(key, direction)] if isinstance(key, str) else key
        return self

    def skip(self, skip: int) -> FakeCursor:
        """Leave out the first ones."""
        self._skip = skip
        return self

    def limit(self, limit: int) -> FakeCursor:
        """Stop after so many; MongoDB takes none for all."""
        self._limit = limit or None
        return self

    def __iter__(self) -> Iterator[Document]:
        found = self._read()
        for field, direction in reversed(self._sort):
            found.sort(key=partial(_rank, field), reverse=direction != ASCENDING)
        last = None if self._limit is None else self._skip + self._limit
        for raw, _ in found[self._skip : last]:
            document = bson.decode(raw, _AWARE)
            yield {n: v for n, v in document.items() if self._fields is None or n in self._fields}


def as_stored(document: Document) -> tuple[bytes, Document]:
    raw = bson.encode(document)
    return raw, bson.decode(raw, _AWARE)


def _rank(field: str, found: tuple[bytes, Document]) -> tuple[int, Any]:
    value = value_at(found[1], field)
    rank = _RANKS.get(kind(value))
    if rank is None:
        raise NotInTheFake(f"order by a {kind(value)}")
    return rank, 0 if rank == 0 else value
