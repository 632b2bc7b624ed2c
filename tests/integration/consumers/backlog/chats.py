"""More chats than the slow Ollama answers in time, and the replies to them."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, Message, Producer, TopicPartition

from config.settings import Settings
from tests.integration.consumers.backlog.member import CALL_LIMIT_S, Member
from tests.waiting import wait_for, wait_for_value

RECORDS = int(os.environ.get("MODELSERVER_BACKLOG_RECORDS", "5000"))
CHATS_LIMIT_S = 300.0 + RECORDS // 20
ELDER = "BACKLOG1"
SAMPLE_S = 0.2


class Replies:
    """The replies: how often each request was answered, with which code, and when."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.codes: Counter[str] = Counter()
        self.wrong: list[int] = []
        """Requests whose answer is another's."""
        self.answered_ms: dict[int, int] = {}
        """The time of each answer at the broker."""

    def take(self, message: Message) -> None:
        """Count one reply."""
        number = int(dict(message.headers() or [])["kafka_correlationId"])
        body = json.loads(message.value() or b"")
        self.counts[number] += 1
        code = body["error"]["code"] if body["error"] else "answered"
        self.codes[code] += 1
        if code == "answered":
            self.answered_ms[number] = message.timestamp()[1]
            if body["reply"] != question(number):
                self.wrong.append(number)


def question(number: int) -> str:
    """Return the question of a request; the slow Ollama answers with the question."""
    return f"Question {number}?"


def send_chats(settings: Settings, name: str) -> dict[int, int]:
    """Send all requests, over all partitions; return when the broker took each, in milliseconds."""
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "linger.ms": 5})
    partitions = len(producer.list_topics(name, timeout=CALL_LIMIT_S).topics[name].partitions)
    taken: dict[int, int] = {}

    def noted(number: int) -> Callable[[object, Message], None]:
        return lambda _error, message: taken.update({number: message.timestamp()[1]})

    for number in range(RECORDS):
        value = json.dumps({"elder_id": ELDER, "message": question(number)}).encode()
        headers = [("kafka_correlationId", str(number).encode())]
        while True:
            try:
                producer.produce(
                    name,
                    value,
                    ELDER.encode(),
                    number % partitions,
                    on_delivery=noted(number),
                    headers=headers,
                )
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(CALL_LIMIT_S) == 0
    return taken


def is_stamped_by_the_broker(settings: Settings, name: str) -> bool:
    """Say whether the topic's records carry the broker's time; the embedded broker has none."""
    found: list[Message] = []

    def is_read() -> bool:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            found.append(message)
        return bool(found)

    with reading(settings, name) as consumer:
        wait_for(is_read, f"a record of {name}")
    return bool(found[0].timestamp()[0] == TIMESTAMP_LOG_APPEND_TIME)


@contextmanager
def reading(settings: Settings, name: str) -> Iterator[Consumer]:
    """Read a topic from its beginning, without a group."""
    options = {"group.id": f"{name}-reader", "enable.auto.commit": False, "log_level": 2}
    consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap_servers} | options)
    partitions = consumer.list_topics(name, timeout=CALL_LIMIT_S).topics[name].partitions
    consumer.assign([TopicPartition(name, p, 0) for p in partitions])
    yield consumer
    consumer.close()


def await_replies(consumer: Consumer, replies: Replies, member: Member) -> list[int]:
    """Read until each request has a reply; return samples of the member's memory, in bytes."""
    memory: list[int] = []
    sampled_at = -SAMPLE_S

    def answered() -> int:
        nonlocal sampled_at
        for message in consumer.consume(500, 0.1):
            if message.error() is None:
                replies.take(message)
        if time.monotonic() - sampled_at > SAMPLE_S:
            memory.append(member.memory_bytes())
            sampled_at = time.monotonic()
        return len(replies.counts)

    wait_for_value(RECORDS, answered, "requests with a reply:", limit_s=CHATS_LIMIT_S)
    return memory
