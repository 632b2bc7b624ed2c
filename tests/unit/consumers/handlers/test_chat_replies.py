"""One reply for each request: repeated, refused or late, it is the same one."""

from collections.abc import Callable
from typing import Any

import pytest

from schemas.errors import (
    KafkaUnavailable,
    ModelNotReady,
    StoreUnavailable,
)
from tests.unit.consumers.handlers.chat_desk import Desk, header


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
