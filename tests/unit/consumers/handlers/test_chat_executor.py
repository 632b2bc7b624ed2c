"""The chat executor: streams, outages, faults, and requests that cannot be read."""

from typing import NoReturn

import pytest

from schemas.errors import (
    ConfigurationError,
    OllamaUnavailable,
)
from tests.unit.consumers.handlers.chat_desk import LIMIT_S, Desk, header


@pytest.mark.parametrize("length", [1, 500, 512])
def test_each_part_of_a_reply_has_an_id_of_its_own_that_is_no_longer_than_ids_may_be(
    desk: Desk, length: int
) -> None:
    desk.service.pieces = ("您", "好")
    desk.ask(b"1" * length, stream=True)
    ids = [header(p, "ce_id") or b"" for p in desk.publisher.published]
    assert len(set(ids)) == 3
    assert max(map(len, ids)) <= 512


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
