"""The chat role's access to MongoDB, which does not block its event loop.

The only module that uses motor, which is at its end of life: pymongo's own asynchronous client
can replace it here without a change elsewhere.
"""

from contextlib import suppress
from datetime import datetime

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from config.settings import AnswerFields, MongoSettings
from pipeline.dataset.answers import to_answer
from pipeline.storage.mongo import (
    CHAT_DEDUP,
    MAJORITY,
    MODELS,
    Document,
    checked_uri,
    client_options,
    store_errors,
)
from schemas.answers import Answer
from schemas.base import Frozen
from schemas.documents import ElderModel
from schemas.errors import StoreUnavailable
from schemas.events import ChatReply


class StoredReply(Frozen):
    """The reply to a request, and the time by MongoDB's clock at which it was stored."""

    reply: ChatReply
    at: datetime


class ChatStore:
    """Looks up models and answers, and stores replies. Every method raises StoreUnavailable."""

    def __init__(self, settings: MongoSettings) -> None:
        options = client_options(settings) | {"appname": "heirloom-modelserver-chat"}
        with checked_uri(settings) as uri:
            self._client: AsyncIOMotorClient[Document] = AsyncIOMotorClient(uri, **options)
        database = self._client[settings.database]
        self._models = database[MODELS]
        # A reply that a failover could still roll back must not be sent again.
        self._replies = database.get_collection(CHAT_DEDUP, read_concern=MAJORITY)
        self._answers = database[settings.answers_collection]
        self._fields: AnswerFields = settings.fields

    async def model(self, elder_id: str) -> ElderModel | None:
        """Return an elder's model, or None."""
        with store_errors():
            document = await self._models.find_one({"_id": elder_id})
        return None if document is None else ElderModel.model_validate(document)

    async def is_known(self, elder_id: str) -> bool:
        """Say whether upstream has stored any answer of this elder."""
        names = [{name: elder_id} for name in self._fields.elder_id]
        with store_errors():
            return await self._answers.find_one({"$or": names}, {"_id": 1}) is not None

    async def answers(self, elder_id: str, limit: int) -> list[Answer]:
        """Return an elder's first answers, as upstream stored them."""
        names = (*self._fields.question, *self._fields.answer)
        condition = {"$or": [{name: elder_id} for name in self._fields.elder_id]}
        with store_errors():
            cursor = self._answers.find(condition, dict.fromkeys(names, 1))
            documents = await cursor.sort("_id", 1).limit(limit).to_list(limit)
        return [to_answer(document, self._fields) for document in documents]

    async def recall_reply(self, request: str) -> StoredReply | None:
        """Return the reply stored for this request, or None."""
        with store_errors():
            document = await self._replies.find_one({"_id": request})
        return None if document is None else _stored(document)

    async def remember_reply(self, request: str, reply: ChatReply) -> StoredReply:
        """Store a reply until it expires, unless the request has one; return the one stored."""
        fields = {
            "reply": {"$ifNull": ["$reply", {"$literal": reply.model_dump_json()}]},
            "at": {"$ifNull": ["$at", "$$NOW"]},
        }
        document = None
        # Of two concurrent upserts, MongoDB fails one with a duplicate key; SecantusDB fails none.
        with suppress(DuplicateKeyError), store_errors():
            document = await self._replies.find_one_and_update(
                {"_id": request},
                [{"$set": fields}],
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        stands = await self.recall_reply(request) if document is None else _stored(document)
        if stands is None:
            raise StoreUnavailable("another member is just storing the reply")
        return stands

    async def ping(self) -> None:
        """Raise StoreUnavailable unless the store answers."""
        with store_errors():
            await self._client.admin.command("ping")

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


def _stored(document: Document) -> StoredReply:
    reply = ChatReply.model_validate_json(document["reply"])
    return StoredReply(reply=reply, at=document["at"])
