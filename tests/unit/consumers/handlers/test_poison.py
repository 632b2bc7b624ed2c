"""Thousands of bad records through each role without servers: every one comes to one end.

The publisher refuses what the broker and its client would; nothing may be retried, for nothing
here is ever down. tests/integration/consumers/test_poison.py does the same over real servers.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import bson
import pytest

from config.metrics import Metrics
from config.settings import ChatSettings, OllamaSettings, Settings
from consumers.handlers.answers import AnswersHandler
from consumers.handlers.chat import ChatExecutor
from consumers.handlers.models import ModelsHandler
from consumers.handlers.training import TrainingHandler
from consumers.kafka.dispatch import Dispatcher, Handler
from consumers.kafka.lanes import Work
from consumers.kafka.offsets import Ticket
from pipeline.chat.service import ChatService
from pipeline.dataset.builder import DatasetBuilder
from pipeline.ledger.new_job import NewJob
from pipeline.versions.manager import ModelManager
from producers.events import Events
from producers.publisher import Publication
from producers.replies import Replies
from schemas.documents import Job
from schemas.errors import MessageTooLarge, NoSuchTopic, UnknownJob
from schemas.record import Record
from tests.fakes.answers import ListedAnswers
from tests.fakes.chat import MemoryChatStore
from tests.fakes.clock import fixed_clock
from tests.fakes.hosting import FakeModelHost
from tests.fakes.jobs import MemoryForms
from tests.fakes.publisher import RecordingPublisher
from tests.fakes.registry import MemoryRegistry
from tests.faults.poison import PARTITIONS, Poison, poison
from tests.faults.values import KNOWN_ELDER, MIB

RECORDS = int(os.environ.get("MODELSERVER_POISON_RECORDS", "1250"))
LIMIT_S = 60.0
SEED = 20260301
REPLY_TOPICS = {"chat-replies", "model-replies", "family.replies"}


class StrictPublisher(RecordingPublisher):
    """Refuses what the broker or its client would."""

    def publish(self, publication: Publication) -> Future[None]:
        """Take it, or fail as Kafka does."""
        headers = sum(len(n.encode()) + len(v or b"") for n, v in publication.headers)
        size = len(publication.key or b"") + len(publication.value or b"") + headers
        if size > (3 if publication.topic.endswith("-dlt") else 2) * MIB:
            self.failures.insert(0, MessageTooLarge())
        elif publication.topic in REPLY_TOPICS and (publication.partition or 0) >= PARTITIONS:
            self.failures.insert(0, NoSuchTopic())
        return super().publish(publication)


class MemoryLedger:
    """Accepts each request once, and only what MongoDB could store."""

    def __init__(self) -> None:
        self.accepted: set[tuple[str, str]] = set()
        self.taken = 0

    def accept(self, requests: Sequence[NewJob]) -> int:
        """Keep the requests' names."""
        for request in requests:
            bson.encode(request.model_dump())
            self.accepted.add((request.request_source, request.request_id))
            self.taken += 1
        return len(requests)

    def get(self, job_id: str, request: str | None = None) -> Job:
        """There is none."""
        raise UnknownJob

    cancel = prioritize = get

    def jobs(self, **condition: Any) -> list[Job]:
        """There are none."""
        return []


class MemoryDatasets:
    """The data sets' registry."""

    def record(self, elder_id: str, fields: dict[str, Any]) -> None:
        """Check that MongoDB could store it."""
        bson.encode(fields | {"_id": elder_id})

    def find(self, elder_id: str) -> dict[str, Any] | None:
        """There is none."""
        return None


class Bench:
    """The parts that the roles share."""

    def __init__(self, folder: Path) -> None:
        self.publisher = StrictPublisher()
        self.metrics = Metrics()
        self.ledger = MemoryLedger()
        self.settings = Settings(model_dir=folder, data_dir=folder)
        self.replies = Replies("source", str, ChatSettings().reply_topics, fixed_clock)
        answers = ListedAnswers({KNOWN_ELDER: [("Where were you born?", "In Stromness.")]})
        training = self.settings.training()
        builder = DatasetBuilder(answers, training, folder)
        datasets: Any = MemoryDatasets()
        registry: Any = MemoryRegistry()
        ledger: Any = self.ledger
        confirm, base = self.publisher.confirm, training.current_model
        events = Events("source", str, fixed_clock)
        manager = ModelManager(registry, FakeModelHost(), MemoryForms())
        self.handlers: dict[str, Handler] = {
            "answers-updated": AnswersHandler(
                answers, builder, datasets, events, confirm, self.metrics, base, fixed_clock
            ),
            "train-requested": TrainingHandler(ledger, training, lambda: None),
            "model-commands": ModelsHandler(
                manager, ledger, builder, datasets, self.replies, confirm, base
            ),
        }

    def dispatcher(self, topic: str) -> Dispatcher:
        """What deals with a topic's records."""
        return Dispatcher(
            topic,
            "group",
            self.handlers[topic],
            self.publisher.confirm,
            self.metrics,
            threading.Event(),
            max_bytes=MIB,
        )

    def retries(self) -> float:
        """How often anything was tried again."""
        samples = [s for m in self.metrics.registry.collect() for s in m.samples]
        return sum(s.value for s in samples if s.name == "modelserver_retries_total")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def works(topic: str) -> Iterator[Work]:
    for one in poison(topic, RECORDS, SEED):
        ticket = Ticket(topic=topic, partition=one.partition, offset=one.case, assignment=1)
        yield Work(record=as_record(topic, one), ticket=ticket)


def as_record(topic: str, one: Poison) -> Record:
    return Record(
        topic=topic,
        partition=one.partition,
        offset=one.case,
        key=one.key,
        value=one.value,
        headers=one.headers,
        timestamp_ms=1_734_512_345_678,
        timestamp_type="create",
    )


def ends(publications: Sequence[Publication], taken: int = 0) -> Counter[str]:
    """Where records ended, by topic; `taken` by the ledger."""
    return Counter({"ledger": taken}) + Counter(p.topic for p in publications)


@pytest.mark.parametrize("topic", ["answers-updated", "train-requested", "model-commands"])
def test_every_record_comes_to_one_end(bench: Bench, topic: str) -> None:
    dispatcher = bench.dispatcher(topic)
    for work in works(topic):
        before = len(bench.publisher.published) + bench.ledger.taken
        dispatcher.process([work])
        after = len(bench.publisher.published) + bench.ledger.taken
        assert after - before == 1, work.record.position
    found = ends(bench.publisher.published, bench.ledger.taken)
    assert found.total() == RECORDS
    assert found[f"{topic}-dlt"] > RECORDS / 20, "most are bad"
    assert len(found) > 1, "some are good"
    assert bench.retries() == 0
    assert InternalFaults(bench).found == []


def test_batches_come_to_the_same_ends(bench: Bench) -> None:
    dispatcher = bench.dispatcher("train-requested")
    batch = list(works("train-requested"))
    for start in range(0, RECORDS, 500):
        dispatcher.process(batch[start : start + 500])
    found = ends(bench.publisher.published, bench.ledger.taken)
    assert found.total() == RECORDS
    assert len(bench.ledger.accepted) <= bench.ledger.taken
    assert bench.retries() == 0


def test_every_chat_request_comes_to_one_end(bench: Bench) -> None:
    done: queue.SimpleQueue[Ticket] = queue.SimpleQueue()
    executor = ChatExecutor(
        lambda: MemoryChatStore(KNOWN_ELDER),
        lambda store: ChatService(store, OllamaSettings(), ChatSettings()),
        bench.publisher,
        bench.replies,
        ChatSettings(),
        bench.metrics,
        "group",
        fixed_clock,
        max_bytes=MIB,
    )
    executor.start(done.put)
    for work in works("chat-requests"):
        executor.submit(work)
        assert done.get(timeout=LIMIT_S) == work.ticket
    assert executor.stop(LIMIT_S)
    found = ends(bench.publisher.published)
    assert found.total() == RECORDS
    assert found["chat-replies"] and found["chat-requests-dlt"]
    assert bench.retries() == 0
    assert InternalFaults(bench).found == []


class InternalFaults:
    """Dead letters and replies that report an internal error: there must be none."""

    def __init__(self, bench: Bench) -> None:
        self.found = [
            p
            for p in bench.publisher.published
            if dict(p.headers).get("heirloom_error-code") == b"internal_error"
            or _code(p) == "internal_error"
        ]


def _code(reply: Publication) -> str | None:
    if reply.topic.endswith("-dlt"):
        return None
    error: dict[str, str] = json.loads(reply.value or b"{}").get("error") or {}
    return error.get("code")
