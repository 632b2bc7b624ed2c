"""One reply a request: whatever is late, repeated, cut off or down."""

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, NoReturn

import pytest

from config.metrics import Metrics
from config.settings import ChatSettings
from consumers.handlers.chat import ChatExecutor
from consumers.kafka.lanes import Work
from consumers.kafka.offsets import Ticket
from pipeline.chat.store import StoredReply
from producers.publisher import Publication
from producers.replies import Replies
from schemas.errors import (
    ConfigurationError,
    KafkaUnavailable,
    ModelNotReady,
    ModelServerError,
    OllamaUnavailable,
    StoreUnavailable,
)
from schemas.events import ChatReply, ChatRequest, ErrorBody
from tests.fakes.parts import NOW, MemoryChatStore, RecordingPublisher, record

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


@pytest.fixture
def desk() -> Iterator[Desk]:
    opened = Desk()
    yield opened
    opened.close()


def header(publication: Publication, name: str) -> bytes | None:
    return dict(publication.headers).get(name)


def refuse(desk: Desk) -> None:
    desk.service.failures = [ModelNotReady()]


def be_late(desk: Desk) -> None:
    desk.service.wait_s = 1.0


def answer(desk: Desk) -> None:
    """As it is."""


@pytest.mark.parametrize("first", [answer, refuse, be_late])
def test_request_that_comes_again_gets_the_very_same_reply(
    desk: Desk, first: Callable[[Desk], None]
) -> None:
    first(desk)
    desk.ask(options={"deadline_ms": 200})
    desk.restart()
    desk.service.wait_s = 0
    desk.ask(options={"deadline_ms": 200})
    one, two = desk.publisher.published
    assert one == two, "byte for byte, its time included"


OTHERS: list[dict[str, Any]] = [{"elder_id": "WEI"}, {"message": "再见"}, {"source": b"app"}]


@pytest.mark.parametrize("other", OTHERS, ids=["elder", "message", "source"])
def test_other_request_under_the_same_id_gets_an_answer_and_an_id_of_its_own(
    desk: Desk, other: dict[str, Any]
) -> None:
    """A sender that numbers from 1 after each restart: Wei's family got what Li had said."""
    desk.ask()
    desk.ask(offset=18, **other)
    assert [body["reply"] for body in desk.bodies()] == ["answer 1", "answer 2"]
    assert [body["elder_id"] for body in desk.bodies()] == ["LXM", other.get("elder_id", "LXM")]
    one, two = desk.publisher.published
    assert header(one, "ce_id") != header(two, "ce_id")


@pytest.mark.parametrize("length", [1, 500, 512])
def test_each_part_of_a_reply_has_an_id_of_its_own_that_is_no_longer_than_ids_may_be(
    desk: Desk, length: int
) -> None:
    desk.service.pieces = ("您", "好")
    desk.ask(b"1" * length, stream=True)
    ids = [header(p, "ce_id") or b"" for p in desk.publisher.published]
    assert len(set(ids)) == 3
    assert max(map(len, ids)) <= 512


def test_late_answer_is_deadline_exceeded_and_never_sent(desk: Desk) -> None:
    be_late(desk)
    desk.ask(options={"deadline_ms": 50})
    desk.service.wait_s = 0
    desk.ask(b"2", 18)
    assert [body["error"] and body["error"]["code"] for body in desk.bodies()] == [
        "deadline_exceeded",
        None,
    ]


def test_deadline_that_passes_while_the_broker_is_slow_does_not_double_the_reply(
    desk: Desk,
) -> None:
    desk.publisher.failures = [KafkaUnavailable(), KafkaUnavailable()]
    desk.ask(options={"deadline_ms": 100})
    assert [body["reply"] for body in desk.bodies()] == ["answer 1"]
    assert desk.publisher.tries == 3


def test_reply_whose_storing_had_no_answer_is_sent_as_it_was_stored(desk: Desk) -> None:
    desk.store.failures = [StoreUnavailable()]
    desk.ask()
    assert [body["reply"] for body in desk.bodies()] == ["answer 1"]
    assert desk.service.calls == 1


def test_ollama_that_is_down_is_waited_for(desk: Desk) -> None:
    desk.service.failures = [OllamaUnavailable()]
    desk.ask()
    assert [body["reply"] for body in desk.bodies()] == ["answer 2"]


def test_stream_sends_pieces_in_order_and_last_the_whole(desk: Desk) -> None:
    desk.service.pieces = ("您", "好", "。")
    desk.ask(stream=True)
    published = desk.publisher.published
    assert [header(p, "seq") for p in published] == [b"0", b"1", b"2", b"3"]
    assert [header(p, "final") for p in published] == [b"false"] * 3 + [b"true"]
    assert [body["reply"] for body in desk.bodies()] == ["您", "好", "。", "answer 1"]
    assert [header(p, "kafka_nest-is-disposed") is None for p in published] == [True] * 3 + [False]


def test_stream_that_comes_again_gets_the_whole_reply_alone(desk: Desk) -> None:
    desk.service.pieces = ("您",)
    desk.ask(stream=True)
    desk.restart()
    desk.ask(stream=True)
    assert [body["reply"] for body in desk.bodies()] == ["您", "answer 1", "answer 1"]


def test_fault_while_a_request_is_set_aside_neither_loses_nor_closes_it(desk: Desk) -> None:
    """It was an exception that nobody fetched: the record was never dealt with nor tried again."""
    desk.publisher.failures = [ValueError(), ValueError("as from a client's bug")]
    desk.ask()
    assert [body["reply"] for body in desk.bodies()] == ["answer 1"]
    assert desk.publisher.tries == 3


def test_executor_that_cannot_open_its_clients_says_so_and_waits_for_nobody(desk: Desk) -> None:
    def fail(*_: object) -> NoReturn:
        raise ConfigurationError

    executor = desk.open(make_service=fail)
    with pytest.raises(ConfigurationError):
        executor.start(lambda ticket: None)
    (thread,) = executor.threads
    thread.join(LIMIT_S)
    assert not thread.is_alive(), "so that /livez tells it"


def test_malformed_request_of_somebody_who_waits_is_answered(desk: Desk) -> None:
    desk.ask(message="")
    (reply,) = desk.bodies()
    assert reply["error"]["code"] == "invalid_event"
