"""A chat store in memory."""

from datetime import UTC, datetime

from pipeline.chat.store import ChatStore, StoredReply
from schemas.answers import Answer
from schemas.documents import ElderModel
from schemas.events import ChatReply


class MemoryChatStore(ChatStore):
    """Replies in memory. No elder has a model or answers; `known` lists the elders that exist."""

    def __init__(self, *known: str) -> None:
        self._known = known
        self._replies_kept: dict[str, StoredReply] = {}

    async def model(self, elder_id: str) -> ElderModel | None:
        """Return None: no elder has a model."""
        return None

    async def is_known(self, elder_id: str) -> bool:
        """Say whether the elder is among `known`."""
        return elder_id in self._known

    async def answers(self, elder_id: str, limit: int) -> list[Answer]:
        """Return an empty list."""
        return []

    async def recall_reply(self, request: str) -> StoredReply | None:
        """Return the stored reply to a request, or None."""
        return self._replies_kept.get(request)

    async def remember_reply(self, request: str, reply: ChatReply) -> StoredReply:
        """Store the first reply to a request, and return it with its time, in milliseconds."""
        now = datetime.now(UTC)
        at = now.replace(microsecond=now.microsecond // 1000 * 1000)
        return self._replies_kept.setdefault(request, StoredReply(reply=reply, at=at))

    async def ping(self) -> None:
        """Succeed."""

    def close(self) -> None:
        """Do nothing."""
