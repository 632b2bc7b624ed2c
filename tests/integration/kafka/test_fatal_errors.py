"""A consumer that the group fences off for good: the loop goes on with another one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, NewTopic

from config.kafka import KafkaSettings
from config.metrics import Metrics
from consumers.kafka.loop import ConsumerLoop
from tests.fakes.consumer import HandExecutor
from tests.integration.conftest import Wire

LIMIT_S = 30.0


def test_member_that_was_fenced_joins_anew(
    kafka_bootstrap_servers: str,
    request: pytest.FixtureRequest,
    wait_until: Callable[[Callable[[], object], str], None],
) -> None:
    """Two programs under one static name: of them Kafka ends one with a fatal error."""
    topic = f"t-{uuid4().hex[:8]}"
    settings = KafkaSettings(
        bootstrap_servers=kafka_bootstrap_servers,
        group_prefix=topic,
        group_protocol=request.config.option.group_protocol,
        session_timeout_ms=6000,
    )
    admin = AdminClient(settings.client())
    admin.create_topics([NewTopic(topic, 1)])[topic].result(LIMIT_S)
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
        if settings.group_protocol == "classic":  # Whoever comes later stays.
            thread.start()
            wait_until(lambda: loop.assigned, "the loop has its partition")
            rival.subscribe([topic])  # It joins at once, without a poll.
            wait_until(lambda: (rival.poll(0.05), len(made) > 1)[1], "the loop was fenced")
        else:  # Whoever was there first stays.
            rival.subscribe([topic])
            wait_until(lambda: (rival.poll(0.05), rival.assignment())[1], "the rival is in")
            thread.start()
            wait_until(lambda: (rival.poll(0.05), len(made) > 1)[1], "the loop was refused")
        rival.close()
        wire.send(topic, b"{}")
        wait_until(lambda: executor.offsets == [0], "the record is handed on")
    finally:
        stop.set()
        thread.join(LIMIT_S)
        wire.close()
    assert not thread.is_alive()
