"""The chat's memory of replies: one suite on the fake and on a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from config.settings import MongoSettings
from pipeline.chat.store import ChatStore
from schemas.events import ChatReply
from tests.fakes.chat import MemoryChatStore

Open = Callable[[], ChatStore]


def said(text: str) -> ChatReply:
    return ChatReply(elder_id="LXM", reply=text, model="m", duration_ms=1)


@pytest.fixture(params=["fake", "real"])
def opens(request: pytest.FixtureRequest) -> Open:
    """Opens one and the same store, as several members do."""
    if request.param == "fake":
        fake = MemoryChatStore("LXM")
        return lambda: fake
    mongo = MongoSettings(
        uri=request.getfixturevalue("mongodb"), database=f"test_{uuid4().hex[:12]}"
    )
    return lambda: ChatStore(mongo)


@asynccontextmanager
async def opened(opens: Open) -> AsyncIterator[ChatStore]:
    store = opens()
    try:
        yield store
    finally:
        store.close()


def test_reply_that_was_stored_first_stands_with_its_time(opens: Open) -> None:
    async def play() -> None:
        async with opened(opens) as store, opened(opens) as other:
            assert await store.recall_reply("r") is None
            first = await store.remember_reply("r", said("$one"))
            assert first.reply == said("$one")
            assert await other.remember_reply("r", said("two")) == first
            assert await other.recall_reply("r") == first
            assert (await other.remember_reply("r2", said("two"))).reply == said("two")

    asyncio.run(play())


def test_time_of_a_reply_is_now_and_one_that_events_can_tell(opens: Open) -> None:
    """On the server's clock, which is this machine's here; an event's time has milliseconds."""

    async def play() -> datetime:
        async with opened(opens) as store:
            return (await store.remember_reply("r", said("one"))).at

    at = asyncio.run(play())
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)
    assert at.microsecond % 1000 == 0


def test_of_many_that_remember_at_once_all_are_told_the_same(opens: Open) -> None:
    async def play() -> None:
        async with opened(opens) as store:
            for request in range(20):
                answers = (store.remember_reply(str(request), said(str(n))) for n in range(8))
                stands = await asyncio.gather(*answers)
                assert len({one.model_dump_json() for one in stands}) == 1

    asyncio.run(play())
