"""What the chat role publishes: a reply or a dead letter, and the ticket is closed either way."""

import json
import queue

import pytest

from config.metrics import Metrics
from config.settings import ChatSettings, OllamaSettings
from consumers.handlers.chat import ChatExecutor
from consumers.kafka.lanes import Work
from consumers.kafka.offsets import Ticket
from pipeline.chat.service import ChatService
from producers.replies import Replies
from schemas.errors import KafkaUnavailable, MessageTooLarge, NoSuchTopic
from schemas.record import Header, Record
from tests.fakes.chat import MemoryChatStore
from tests.fakes.clock import fixed_clock
from tests.fakes.publisher import RecordingPublisher
from tests.fakes.records import record

LIMIT_S = 20.0
TOPIC = "chat-requests"
ASKED: tuple[Header, ...] = (("kafka_correlationId", b"c"),)
QUESTION = json.dumps({"elder_id": "STRANGER", "message": "Hello?"}).encode()


def deal_with(asked: Record, *failures: Exception | None) -> list[tuple[str, bool]]:
    """Give one request to a chat role; topic of each publication, and whether it is empty."""
    publisher = RecordingPublisher(*failures)
    executor = ChatExecutor(
        lambda: MemoryChatStore(),
        lambda store: ChatService(store, OllamaSettings(), ChatSettings()),
        publisher,
        Replies("source", str, (r"chat-replies",), fixed_clock),
        ChatSettings(),
        Metrics(),
        "group",
        fixed_clock,
        max_bytes=2**20,
    )
    done: queue.SimpleQueue[Ticket] = queue.SimpleQueue()
    executor.start(done.put)
    executor.submit(
        Work(record=asked, ticket=Ticket(topic=TOPIC, partition=0, offset=0, assignment=1))
    )
    done.get(timeout=LIMIT_S)
    assert executor.stop(LIMIT_S)
    return [(p.topic, p.value is None) for p in publisher.published]


def asking(*headers: Header, value: bytes | None = QUESTION) -> Record:
    return record(value, *headers, topic=TOPIC)


def test_question_to_a_stranger_is_answered() -> None:
    assert deal_with(asking()) == [("chat-replies", False)]


def test_reply_larger_than_its_topic_becomes_a_dead_letter() -> None:
    """It carries back the request's key and correlation id, of nearly 2 MiB together."""
    too_large = [MessageTooLarge()] * 2
    assert deal_with(asking(*ASKED), *too_large) == [(f"{TOPIC}-dlt", False)]


def test_dead_letter_larger_than_its_topic_is_emptied() -> None:
    too_large = [MessageTooLarge()] * 2
    assert deal_with(asking(value=b"no JSON"), *too_large[:1]) == [(f"{TOPIC}-dlt", True)]
    assert deal_with(asking(*ASKED, value=b"no JSON"), *too_large) == [(f"{TOPIC}-dlt", True)]


def test_broker_that_is_away_is_waited_for() -> None:
    assert deal_with(asking(), KafkaUnavailable()) == [("chat-replies", False)]


@pytest.mark.parametrize("value", [QUESTION, b"no JSON"])
def test_reply_to_a_place_that_does_not_exist_becomes_a_dead_letter(value: bytes) -> None:
    asked = asking(("kafka_replyTopic", b"chat-replies"), value=value)
    assert deal_with(asked, NoSuchTopic()) == [(f"{TOPIC}-dlt", False)]
