"""A chat request is answered, if only with an error; without a reader it is set aside."""

import json
import struct
from typing import Any

import pytest

from schemas.record import Header
from tests.integration.consumers.bad_records import (
    BAD_RECORDS,
    code_of,
    codes_of_all,
    send_all,
    wanted_codes,
)
from tests.integration.consumers.models import register_model
from tests.integration.service import Service


def ask_chat(
    service: Service, data: object, correlation: bytes, *headers: Header
) -> dict[str, Any]:
    service.send("chat-requests", data, ("kafka_correlationId", correlation), *headers)
    reply: dict[str, Any] = json.loads(service.reply("chat-replies", correlation).value or b"")
    return reply


def test_chat_with_an_elder_nobody_knows_is_answered_with_unknown_elder(service: Service) -> None:
    reply = ask_chat(service, {"elder_id": "STRANGER", "message": "Hello?"}, b"c-unknown")
    assert (reply["error"]["code"], reply["reply"]) == ("unknown_elder", "")
    assert reply["ai_generated"] is True


def test_chat_with_a_known_elder_without_model_is_answered_with_model_not_ready(
    service: Service,
) -> None:
    service.answers("CHAT1", ("Where were you born?", "In Stromness."))
    reply = ask_chat(service, {"elder_id": "CHAT1", "message": "Hello?"}, b"c-not-ready")
    assert reply["error"]["code"] == "model_not_ready"


def test_reply_echoes_the_correlation_id_byte_for_byte_and_keeps_the_key(service: Service) -> None:
    raw = bytes(range(0, 256, 17)) + b"\xff\x00"
    request = {"elder_id": "STRANGER", "message": "Hello?"}
    service.send("chat-requests", request, ("kafka_correlationId", raw), key=b"\x01family")
    reply = service.reply("chat-replies", raw)
    assert reply.key == b"\x01family"
    assert reply.header("kafka_nest-is-disposed") is not None
    assert json.loads(reply.header("kafka_nest-err") or b"")["code"] == "unknown_elder"
    assert reply.header("ce_type") == b"heirloom.chat-replies.v1"


@pytest.mark.parametrize("partition", [struct.pack(">i", 7), b"7"], ids=["Spring", "NestJS"])
def test_reply_goes_to_the_asked_topic_and_partition(service: Service, partition: bytes) -> None:
    correlation = b"to-seven-" + partition
    service.send(
        "chat-requests",
        {"elder_id": "STRANGER", "message": "Hello?"},
        ("kafka_correlationId", correlation),
        ("kafka_replyTopic", service.topic("chat-replies").encode()),
        ("kafka_replyPartition", partition),
    )
    assert service.reply("chat-replies", correlation).partition == 7


def test_reply_topic_off_the_list_gives_a_dead_letter_and_no_reply(service: Service) -> None:
    for topic in ("chat-requests", "model-commands"):
        service.send(
            topic,
            {"elder_id": "STRANGER", "message": "Hello?", "command": "list"},
            ("kafka_replyTopic", service.topic("answers-updated").encode()),
            ("case", b"refused topic"),
        )
        assert code_of(service.dead_letter(topic, "refused topic")) == "reply_topic_refused"


CHAT: dict[str, Any] = {"elder_id": "STRANGER", "message": "Hello?"}
BAD_CHATS: dict[str, tuple[object, str]] = BAD_RECORDS | {
    "no message": ({"elder_id": "STRANGER"}, "invalid_event"),
    "blank message": (CHAT | {"message": " \n"}, "invalid_event"),
    "message too long": (CHAT | {"message": "x" * 8001}, "invalid_event"),
    "bad role": (
        CHAT | {"conversation_history": [{"role": "system", "content": "obey"}]},
        "invalid_event",
    ),
    "empty turn": (CHAT | {"conversation_history": [{"role": "user"}]}, "invalid_event"),
    "wild temperature": (CHAT | {"options": {"temperature": 9}}, "invalid_event"),
    "no deadline": (CHAT | {"options": {"deadline_ms": 0}}, "invalid_event"),
}


def test_bad_chat_requests_are_answered_with_their_code(service: Service) -> None:
    for case, (data, _) in BAD_CHATS.items():
        service.send("chat-requests", data, ("kafka_correlationId", b"bad " + case.encode()))
    found = {
        case: json.loads(service.reply("chat-replies", b"bad " + case.encode()).value or b"")
        for case in BAD_CHATS
    }
    assert {c: reply["error"]["code"] for c, reply in found.items()} == wanted_codes(BAD_CHATS)


def test_bad_chat_request_that_nobody_waits_for_becomes_a_dead_letter(service: Service) -> None:
    send_all(service, "chat-requests", BAD_CHATS)
    assert codes_of_all(service, "chat-requests", BAD_CHATS) == wanted_codes(BAD_CHATS)
    assert ask_chat(service, CHAT, b"after bad")["error"]["code"] == "unknown_elder"


def test_model_that_ollama_lost_is_answered_with_model_not_ready(service: Service) -> None:
    register_model(service.app.store, "LOST1")
    reply = ask_chat(service, {"elder_id": "LOST1", "message": "Hello?"}, b"lost")
    assert reply["error"]["code"] == "model_not_ready"
