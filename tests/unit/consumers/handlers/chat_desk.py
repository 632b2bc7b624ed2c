"""A chat executor over fakes, and how a test asks it."""

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

from config.metrics import Metrics
from config.settings import ChatSettings
from consumers.handlers.chat import ChatExecutor
from consumers.kafka.lanes import Work
from consumers.kafka.offsets import Ticket
from pipeline.chat.store import StoredReply
from producers.publisher import Publication
from producers.replies import Replies
from schemas.errors import (
    ModelServerError,
)
from schemas.events import ChatReply, ChatRequest, ErrorBody
from tests.fakes.chat import MemoryChatStore
from tests.fakes.clock import NOW
from tests.fakes.publisher import RecordingPublisher
from tests.fakes.records import record

LIMIT_S = 10.0


class FailingChatStore(MemoryChatStore):
    """The next writes fail with the queued errors, after they were done."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = []

    async def remember_reply(self, request: str, reply: ChatReply) -> StoredReply:
        stands = await super().remember_reply(request, reply)
        if self.failures:
            raise self.failures.pop(0)
        return stands


class ScriptedService:
    """Answers by number of call, so that two answers never look alike."""

    def __init__(self) -> None:
        self.calls = 0
        self.wait_s = 0.0
        self.failures: list[Exception] = []
        self.pieces: tuple[str, ...] = ()

    async def answer(self, request: ChatRequest) -> ChatReply:
        self.calls += 1
        number = self.calls
        await asyncio.sleep(self.wait_s)
        if self.failures:
            raise self.failures.pop(0)
        return self._reply(request, f"answer {number}")

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatReply]:
        for piece in self.pieces:
            await asyncio.sleep(0.02)
            yield piece
        yield await self.answer(request)

    def refusal(self, elder_id: str, error: ModelServerError, begun: float) -> ChatReply:
        self.calls += 1
        body = ErrorBody(code=error.code, message=error.message)
        return self._reply(ChatRequest(elder_id="LXM", message="?"), "").model_copy(
            update={"error": body, "duration_ms": self.calls}
        )

    async def close(self) -> None:
        """Nothing to close."""

    def _reply(self, request: ChatRequest, text: str) -> ChatReply:
        return ChatReply(elder_id=request.elder_id, reply=text, model="m", duration_ms=1)


class Desk:
    """An executor over fakes, and how a test uses it."""

    def __init__(self) -> None:
        self.store = FailingChatStore()
        self.service = ScriptedService()
        self.publisher = RecordingPublisher()
        self._settings = ChatSettings(deadline_s=5, stream_interval_s=0.01)
        self._time = itertools.count()
        self._done: set[int] = set()
        self._changed = threading.Condition()
        self._executor = self._open()

    def _open(self) -> ChatExecutor:
        executor = self.open(lambda store: self.service)
        executor.start(self._note)
        return executor

    def open(self, make_service: Callable[[Any], Any]) -> ChatExecutor:
        return ChatExecutor(
            lambda: self.store,
            make_service,
            self.publisher,
            Replies("test", lambda name: name, self._settings.reply_topics, self._clock),
            self._settings,
            Metrics(),
            "group",
            self._clock,
            max_bytes=1_000_000,
        )

    def _clock(self) -> datetime:
        """It never stands still."""
        return NOW + timedelta(seconds=next(self._time))

    def _note(self, ticket: Ticket) -> None:
        with self._changed:
            self._done.add(ticket.offset)
            self._changed.notify_all()

    def restart(self) -> None:
        """Another member takes over; what was not committed comes again."""
        self.close()
        self._executor = self._open()
        self._done.clear()

    def close(self) -> None:
        assert self._executor.stop(LIMIT_S)

    def ask(
        self,
        event_id: bytes = b"1",
        offset: int = 17,
        source: bytes = b"family",
        **fields: Any,
    ) -> None:
        """Send a request and wait until it is dealt with."""
        body = {"elder_id": "LXM", "message": "您好"} | fields
        asked = record(
            json.dumps(body).encode(),
            ("ce_id", event_id),
            ("ce_source", source),
            ("ce_specversion", b"1.0"),
            ("ce_type", b"heirloom.chat-requests.v1"),
            ("kafka_correlationId", event_id),
            topic="chat-requests",
            offset=offset,
        )
        ticket = Ticket(topic="chat-requests", partition=3, offset=offset, assignment=1)
        self._executor.submit(Work(record=asked, ticket=ticket))
        with self._changed:
            assert self._changed.wait_for(lambda: offset in self._done, LIMIT_S)

    def bodies(self) -> list[dict[str, Any]]:
        """The published replies."""
        return [json.loads(p.value or b"") for p in self.publisher.published]


def header(publication: Publication, name: str) -> bytes | None:
    return dict(publication.headers).get(name)
