"""A MongoDB in memory with a false clock: what the ledger needs of `pymongo`, and no more.

Every document goes through real BSON on its way in and out, so dates lose their microseconds,
tuples become lists, and nobody shares an object with the store. Indexes come from the same
`ensure_indexes` as the real ones, and unique ones are kept. `on_moment` is called before and
after each command and each single write of a batch: there a test may crash the caller, lose the
answer of a write that took effect, let the clock run, or let somebody else go first.
`on_change` is shown each document as it was and as it is, in the moment of the write.

tests/contract/pipeline/ledger/ runs one suite on this and on a real store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from random import Random
from typing import Any, Literal, cast

from pymongo import IndexModel, UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, InvalidOperation, OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.results import BulkWriteResult, InsertManyResult, InsertOneResult, UpdateResult

from pipeline.storage.mongo import Store
from tests.fakes.clock import FalseClock
from tests.fakes.mongo_cursor import FakeCursor, as_stored
from tests.fakes.mongo_indexes import DUPLICATE_KEY, duplicate, is_in, key_of
from tests.fakes.mongo_language import (
    Document,
    NotInTheFake,
    kind,
    matches,
    updated,
    value_at,
)

_INDEX_NOT_FOUND = 27
_INDEX_OPTIONS_CONFLICT = 85
_INDEX_FIELDS = {"name", "key", "unique", "partialFilterExpression", "expireAfterSeconds"}


@dataclass(frozen=True)
class Moment:
    """A place in a caller's work at which it may be stopped."""

    when: Literal["before", "after"]
    command: str
    is_write: bool


def nothing_happens(*_: object) -> None:
    """The hook of a store that always works and that nobody watches."""


class FakeStore:
    """A database. `order` shuffles what has no order: a real store promises none either."""

    def __init__(self, clock: FalseClock, *, order: Random | None = None) -> None:
        self.clock = clock
        self.order = order
        self.on_moment: Callable[[Moment], None] = nothing_happens
        self.on_change: Callable[[Document | None, Document], None] = nothing_happens
        self.lock = threading.Lock()
        self._collections: dict[str, FakeCollection] = {}

    def __getitem__(self, name: str) -> FakeCollection:
        return self._collections.setdefault(name, FakeCollection(self, name))

    def get_collection(self, name: str, *, read_concern: ReadConcern) -> FakeCollection:
        """The collection as a majority sees it: all that was written, as this is one server."""
        return self[name]

    def command(
        self, name: str, collection: str | None = None, *, index: Document | None = None
    ) -> Document:
        """Answer `hello`, like pymongo without a time zone, and `collMod` of an index's expiry."""
        if name == "collMod" and collection is not None and index is not None:
            return self[collection].set_expiry(**index)
        if name != "hello":
            raise NotInTheFake(f"command {name}")
        self.on_moment(Moment("before", name, is_write=False))
        now = self.clock.read().replace(tzinfo=None)
        self.on_moment(Moment("after", name, is_write=False))
        return {"ok": 1.0, "localTime": now}

    def as_store(self) -> Store:
        """This, under the type that production code asks for."""
        return cast("Store", self)


class FakeCollection:
    """A collection: documents as BSON and as what BSON makes of them, in order of insertion."""

    def __init__(self, store: FakeStore, name: str) -> None:
        self._store = store
        self._name = name
        self._documents: dict[Any, tuple[bytes, Document]] = {}
        self._indexes: dict[str, Document] = {}
        self._keys: dict[str, dict[tuple[Any, ...], Any]] = {}
        """Of each unique index the keys, each with the `_id` of the document that has it."""

    # Reading --------------------------------------------------------------------------------

    def find(self, condition: Document, projection: Document | None = None) -> FakeCursor:
        """Find documents once the cursor is read."""
        return FakeCursor(lambda: self._found("find", condition), projection)

    def find_one(
        self,
        condition: Document,
        projection: Document | None = None,
        sort: list[tuple[str, int]] | None = None,
    ) -> Document | None:
        """Return the first match, or any where no order is asked for."""
        cursor = FakeCursor(lambda: self._found("find_one", condition), projection)
        return next(iter(cursor.sort(sort) if sort else cursor), None)

    def distinct(self, field: str, condition: Document) -> list[Any]:
        """List a field's different values."""
        if "$$NOW" in repr(condition):
            raise NotInTheFake("$$NOW in distinct: SecantusDB does not know it")
        values: list[Any] = []
        for _, document in self._found("distinct", condition):
            value = value_at(document, field)
            if kind(value) not in ("string", "number"):
                raise NotInTheFake(f"distinct of a {kind(value)}")
            if value not in values:
                values.append(value)
        return values

    def count_documents(self, condition: Document) -> int:
        """Count the matches."""
        return len(self._found("count_documents", condition))

    def _found(self, command: str, condition: Document) -> list[tuple[bytes, Document]]:
        wanted = as_stored(condition)[1]
        self._store.on_moment(Moment("before", command, is_write=False))
        with self._store.lock:
            found = self._scan(wanted, self._store.clock.read())
        self._store.on_moment(Moment("after", command, is_write=False))
        return found

    def _scan(self, condition: Document, now: datetime) -> list[tuple[bytes, Document]]:
        found = [d for d in self._documents.values() if matches(d[1], condition, now)]
        if self._store.order is not None:
            self._store.order.shuffle(found)
        return found

    # Writing --------------------------------------------------------------------------------

    def insert_one(self, document: Document) -> InsertOneResult:
        """Insert, or raise DuplicateKeyError."""
        failure = self._write("insert_one", partial(self._insert, document))
        if failure is not None:
            raise DuplicateKeyError(failure["errmsg"], DUPLICATE_KEY, failure)
        return InsertOneResult(document["_id"], True)

    def insert_many(self, documents: list[Document], *, ordered: bool) -> InsertManyResult:
        """Insert all that can be; raise BulkWriteError with the rest. In order: up to the first."""
        if not documents:
            raise TypeError("documents must be a non-empty list")
        failures: list[Document] = []
        inserted = 0
        for index, document in enumerate(documents):
            failure = self._write("insert_many", partial(self._insert, document))
            if failure is None:
                inserted += 1
                continue
            failures.append(failure | {"index": index})
            if ordered:
                break
        if failures:
            raise BulkWriteError(
                {"writeErrors": failures, "writeConcernErrors": [], "nInserted": inserted}
            )
        return InsertManyResult([d["_id"] for d in documents], True)

    def update_one(self, condition: Document, update: Any) -> UpdateResult:
        """Update the first match, or raise DuplicateKeyError."""
        wanted = as_stored(condition)[1]
        change = as_stored({"update": update})[1]["update"]
        matched = self._write("update_one", partial(self._update, wanted, change))
        if isinstance(matched, dict):
            raise DuplicateKeyError(matched["errmsg"], DUPLICATE_KEY, matched)
        return UpdateResult({"n": matched, "ok": 1.0}, True)

    def bulk_write(
        self, requests: list[UpdateOne] | list[UpdateMany], *, ordered: bool
    ) -> BulkWriteResult:
        """Update one after the other, each document by itself; a batch is no transaction."""
        if not requests:
            raise InvalidOperation("No operations to execute")
        if not ordered or any(type(r) not in (UpdateOne, UpdateMany) for r in requests):
            raise NotInTheFake("a bulk write out of order, or not of updates")
        matched = 0
        for request in requests:
            stored = as_stored({"filter": request._filter, "update": request._doc})[1]
            if type(request) is UpdateOne:
                matched += self._bulk_update(stored["filter"], stored["update"])
                continue
            for key in self._ids_of(stored["filter"]):
                # Each is looked at again: it may have changed since it was found.
                matched += self._bulk_update(stored["filter"] | {"_id": key}, stored["update"])
        return BulkWriteResult({"nMatched": matched}, True)

    def _bulk_update(self, condition: Document, change: Any) -> int:
        matched = self._write("bulk_write", partial(self._update, condition, change))
        if isinstance(matched, dict):
            raise NotInTheFake("a bulk write against a unique index")
        count: int = matched
        return count

    def _ids_of(self, condition: Document) -> list[Any]:
        with self._store.lock:
            return [d["_id"] for _, d in self._scan(condition, self._store.clock.read())]

    def _write(self, command: str, change: Callable[[datetime], Any]) -> Any:
        self._store.on_moment(Moment("before", command, is_write=True))
        with self._store.lock:
            result = change(self._store.clock.read())
        self._store.on_moment(Moment("after", command, is_write=True))
        return result

    def _insert(self, document: Document, _now: datetime) -> Document | None:
        raw, stored = as_stored(document)
        if "_id" not in stored:
            raise NotInTheFake("a document without _id")
        if stored["_id"] in self._documents:
            return duplicate("_id_", ["_id"])
        return self._kept(raw, stored)

    def _update(self, condition: Document, change: Any, now: datetime) -> int | Document:
        found = self._scan(condition, now)
        if not found:
            return 0
        failure = self._kept(*as_stored(updated(found[0][1], change, now)))
        return 1 if failure is None else failure

    def _kept(self, raw: bytes, document: Document) -> Document | None:
        """Keep a document, unless a unique index has another one under its key."""
        keys = {
            name: key_of(index, document)
            for name, index in self._indexes.items()
            if index.get("unique") and is_in(index, document)
        }
        for name, key in keys.items():
            if self._keys[name].get(key, document["_id"]) != document["_id"]:
                return duplicate(name, list(self._indexes[name]["key"]))
        before = self._documents.get(document["_id"])
        for name, known in self._keys.items():
            if before is not None and is_in(self._indexes[name], before[1]):
                del known[key_of(self._indexes[name], before[1])]
            if name in keys:
                known[keys[name]] = document["_id"]
        self._documents[document["_id"]] = (raw, document)
        self._store.on_change(before and before[1], document)
        return None

    # Indexes --------------------------------------------------------------------------------

    def create_indexes(self, indexes: list[IndexModel]) -> list[str]:
        """Create indexes; one that is there already must be the same."""
        for index in indexes:
            wanted = dict(index.document)
            if not set(wanted) <= _INDEX_FIELDS:
                raise NotInTheFake(f"an index with {sorted(set(wanted) - _INDEX_FIELDS)}")
            known = self._indexes.get(wanted["name"])
            if known is not None and known != wanted:
                raise OperationFailure("index differs", _INDEX_OPTIONS_CONFLICT)
            if known is None and self._documents and wanted.get("unique"):
                raise NotInTheFake("a unique index on documents that are there already")
            self._indexes[wanted["name"]] = wanted
            if wanted.get("unique"):
                self._keys.setdefault(wanted["name"], {})
        return [index.document["name"] for index in indexes]

    def set_expiry(self, name: str, expireAfterSeconds: int) -> Document:
        """Change an index in place; raises OperationFailure where there is none."""
        if name not in self._indexes:
            raise OperationFailure("index not found", _INDEX_NOT_FOUND)
        self._indexes[name]["expireAfterSeconds"] = expireAfterSeconds
        return {"ok": 1.0}

    def drop_index(self, name: str) -> None:
        """Forget an index; raises OperationFailure where there is none."""
        if name not in self._indexes:
            raise OperationFailure("index not found", _INDEX_NOT_FOUND)
        del self._indexes[name]
        self._keys.pop(name, None)

    def index_information(self) -> dict[str, Document]:
        """Describe the indexes."""
        return {name: dict(index) for name, index in self._indexes.items()}
