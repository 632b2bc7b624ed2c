"""A consumer that its group fences off for good: the loop replaces it and goes on."""

from __future__ import annotations

import threading
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, NewTopic

from config.kafka import KafkaSettings
from config.metrics import Metrics
from consumers.kafka.loop import ConsumerLoop
from tests.fakes.consumer import HandExecutor
from tests.integration.wire import Wire
from tests.waiting import wait_for

CALL_LIMIT_S = 60.0


def test_member_that_was_fenced_joins_anew(
    kafka_bootstrap_servers: str,
    request: pytest.FixtureRequest,
) -> None:
    """Two members with one static name: Kafka ends one of them with a fatal error.

    The classic protocol fences the member that was there; the consumer protocol refuses the one
    that comes later. Either way it is the loop under test that is hit.
    """
    topic = f"t-{uuid4().hex[:8]}"
    settings = KafkaSettings(
        bootstrap_servers=kafka_bootstrap_servers,
        group_prefix=topic,
        group_protocol=request.config.option.group_protocol,
        session_timeout_ms=6000,
    )
    admin = AdminClient(settings.client())
    admin.create_topics([NewTopic(topic, 1)])[topic].result(CALL_LIMIT_S)
    made: list[Consumer] = []

    def make(config: dict[str, Any]) -> Consumer:
        made.append(Consumer(config | {"group.instance.id": "one name"}))
        return made[-1]

    executor, stop = HandExecutor(), threading.Event()
    loop = ConsumerLoop(
        "chat", [topic], settings, executor, Metrics(), limit=10, make_consumer=make
    )
    wire = Wire(kafka_bootstrap_servers)
    rival = Consumer(settings.consumer("chat") | {"group.instance.id": "one name"})
    thread = threading.Thread(target=loop.run, args=(stop,))
    try:
        if settings.group_protocol == "classic":
            thread.start()
            wait_for(lambda: loop.assigned, "the loop has its partition")
            rival.subscribe([topic])  # The client joins at once, without a poll.
            wait_for(lambda: (rival.poll(0.05), len(made) > 1)[1], "the loop was fenced")
        else:
            rival.subscribe([topic])
            wait_for(lambda: (rival.poll(0.05), rival.assignment())[1], "the rival is in")
            thread.start()
            wait_for(lambda: (rival.poll(0.05), len(made) > 1)[1], "the loop was refused")
        rival.close()
        wire.send(topic, b"{}")
        wait_for(lambda: executor.offsets == [0], "the record is handed on")
    finally:
        stop.set()
        thread.join(CALL_LIMIT_S)
        wire.close()
    assert not thread.is_alive()
