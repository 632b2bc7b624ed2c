"""An elder's answers, read page by page from a collection that belongs to the upstream system."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Protocol

from pymongo import ASCENDING

from config.settings import AnswerFields, MongoSettings
from pipeline.storage.mongo import Document, Store, store_errors
from schemas.answers import Answer
from schemas.errors import UnknownElder
from schemas.identifiers import is_elder_id


class AnswerSource(Protocol):
    """Where answers come from.

    Both methods raise StoreUnavailable when it cannot be reached, and UnknownElder for an invalid
    id.
    """

    def answers(self, elder_id: str) -> Iterator[Answer]:
        """Yield the elder's answers in a stable order, without keeping them all in memory."""

    def elder_name(self, elder_id: str) -> str | None:
        """Return the elder's name as stored with the answers, or None."""


class MongoAnswers:
    """Answers in MongoDB, under the configured names of collection and fields."""

    def __init__(self, store: Store, settings: MongoSettings) -> None:
        self._collection = store[settings.answers_collection]
        self._fields = settings.fields
        self._page_size = settings.page_size

    def answers(self, elder_id: str) -> Iterator[Answer]:
        """Yield the elder's answers in the order of `_id`; only a page of them is in memory."""
        names = (self._fields.question, self._fields.answer, self._fields.created_at)
        projection = {name: 1 for group in names for name in group}
        with store_errors():
            cursor = self._collection.find(
                self._filter(elder_id), projection, batch_size=self._page_size
            ).sort("_id", ASCENDING)
            with cursor:
                for document in cursor:
                    yield to_answer(document, self._fields)

    def elder_name(self, elder_id: str) -> str | None:
        """Return the name in the first of the elder's answers that the store finds, or None."""
        projection = dict.fromkeys(self._fields.elder_name, 1)
        with store_errors():
            document = self._collection.find_one(self._filter(elder_id), projection)
        return first_text(document or {}, self._fields.elder_name).strip() or None

    def _filter(self, elder_id: str) -> Document:
        if not is_elder_id(elder_id):
            raise UnknownElder("elder_id: not a valid id")
        names = self._fields.elder_id
        if len(names) == 1:
            return {names[0]: elder_id}
        return {"$or": [{name: elder_id} for name in names]}


def to_answer(document: Document, fields: AnswerFields) -> Answer:
    """Turn a document of the upstream system into an answer, by the configured field names."""
    created = next((document[n] for n in fields.created_at if n in document), None)
    return Answer(
        id=str(document["_id"]),
        question=first_text(document, fields.question),
        answer=first_text(document, fields.answer),
        created_at=created if isinstance(created, datetime) else None,
    )


def first_text(document: Document, names: tuple[str, ...]) -> str:
    """Return the first of these fields that is set, or an empty string if it is not text."""
    value: Any = next((document[n] for n in names if document.get(n) is not None), "")
    return value if isinstance(value, str) else ""
