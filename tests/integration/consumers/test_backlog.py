"""More than can be done in time: chats behind a slow Ollama, and jobs before an urgent elder's.

Each role runs in a process of its own, so that its memory can be seen.
`MODELSERVER_BACKLOG_RECORDS=100000 MODELSERVER_BACKLOG_JOBS=10000 pytest -s
tests/integration/consumers/test_backlog.py` is the long one; docs/reliability.md has its figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, Message, Producer, TopicPartition

from config.settings import Settings
from consumers.operations.topics import apply_topics
from embedded.process import free_port
from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import open_client
from schemas.documents import ElderModel
from schemas.envelope import event_type, format_time
from schemas.topics import CHAT_REPLIES, CHAT_REQUESTS, TRAIN_REQUESTED
from tests.servers.slow_ollama import SlowOllama

if TYPE_CHECKING:
    from tests.integration.conftest import MakeSettings, WaitUntil

RECORDS = int(os.environ.get("MODELSERVER_BACKLOG_RECORDS", "5000"))
JOBS_QUEUED = int(os.environ.get("MODELSERVER_BACKLOG_JOBS", "2000"))
ELDER, FLOODED, URGENT = "BACKLOG1", "FLOODED1", "URGENT1"
ANSWER_S = 0.1
DEADLINE_S = 5.0
# What a reply takes from Ollama's answer to the broker, on a busy machine.
MARGIN_S = 2.0
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
STALL_S = 30.0
# A process that starts and joins its group: a minute and more on a machine that does much else.
START_S = 120.0
# What the client fetches ahead, the connections and the allocator; a record has 300 bytes.
MEMORY_BYTES = 48 * 1024 * 1024


class Member:
    """`modelserver run ROLE` in a process of its own, as others see it."""

    def __init__(self, process: psutil.Process, port: int, log: Path) -> None:
        self._process = process
        self._ops = f"http://127.0.0.1:{port}"
        self._log = log

    def is_ready(self) -> bool:
        """Say whether it has its partitions and all that it needs."""
        alive = self._process.status() != psutil.STATUS_ZOMBIE
        assert alive, self._log.read_text(encoding="utf-8")
        try:
            with urllib.request.urlopen(f"{self._ops}/readyz", timeout=STALL_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def rebalances(self) -> dict[str, float]:
        """How often partitions came and went, by kind."""
        with urllib.request.urlopen(f"{self._ops}/metrics", timeout=STALL_S) as answer:
            lines = answer.read().decode().splitlines()
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("modelserver_rebalances_total")
        }

    def memory_bytes(self) -> int:
        """Its resident memory."""
        return int(self._process.memory_info().rss)

    def logged(self, text: str) -> int:
        """How often its log has this text."""
        return self._log.read_text(encoding="utf-8").count(text)


@contextmanager
def member_of(role: str, settings: Settings, folder: Path) -> Iterator[Member]:
    """Run a role under these settings."""
    port, log = free_port(), folder / f"{role}.log"
    kafka = settings.kafka
    others = {k: v for k, v in os.environ.items() if not k.startswith("MODELSERVER_")}
    environment = others | {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "MONGODB_URI": settings.mongodb.uri.get_secret_value(),
        "MONGODB_DATABASE": settings.mongodb.database,
        "OLLAMA_HOST": settings.ollama.host,
        "MODELSERVER_KAFKA__GROUP_PREFIX": kafka.group_prefix,
        "MODELSERVER_KAFKA__GROUP_PROTOCOL": kafka.group_protocol,
        "MODELSERVER_KAFKA__SESSION_TIMEOUT_MS": str(kafka.session_timeout_ms),
        "MODELSERVER_KAFKA__CHAT_FETCH_WAIT_MS": str(kafka.chat_fetch_wait_ms),
        "MODELSERVER_CHAT__DEADLINE_S": str(DEADLINE_S),
        "MODELSERVER_OPS__PORT": str(port),
        "MODELSERVER_LOG__FILE": "false",
        "MODELSERVER_TOPICS": json.dumps(settings.topics),
        "MODELSERVER_DATA_DIR": str(settings.data_dir),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "run", role],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Member(psutil.Process(process.pid), port, log)
        finally:
            process.terminate()
            try:
                process.wait(STALL_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def slow_ollama() -> Iterator[SlowOllama]:
    """An Ollama that answers a fraction of what is asked."""
    with SlowOllama(ANSWER_S) as server:
        yield server


@pytest.fixture
def settings(make_settings: MakeSettings, slow_ollama: SlowOllama, tmp_path: Path) -> Settings:
    """Settings with the slow Ollama, topics, and one elder whose model answers."""
    made = make_settings(tmp_path)
    ollama = made.ollama.model_copy(update={"host": slow_ollama.host})
    settings = made.model_copy(update={"ollama": ollama})
    apply_topics(settings)
    client = open_client(settings.mongodb)
    ensure_indexes(client[settings.mongodb.database], settings.chat.dedup_hours)
    model = ElderModel.model_validate(
        {
            "id": ELDER,
            "elder_name": "李秀梅",
            "current": 1,
            "next_version": 2,
            "versions": [
                {
                    "version": 1,
                    "job_id": "j",
                    "fence": 1,
                    "ready": True,
                    "tag": f"afs_elder_{ELDER}:v1",
                    "base_model": "b",
                    "method": "lora",
                    "recipe_sha256": "a" * 64,
                    "dataset_sha256": "a" * 64,
                    "created_at": "2026-01-01T00:00:00Z",
                }
            ],
        }
    )
    folded = {"folded_id": ELDER.lower()}
    client[settings.mongodb.database]["models"].insert_one(model.model_dump(by_alias=True) | folded)
    client.close()
    return settings


class Told:
    """What came back: how often for each request, with which code, and when."""

    def __init__(self) -> None:
        self.replies: Counter[int] = Counter()
        self.codes: Counter[str] = Counter()
        self.wrong: list[int] = []
        self.answered_ms: dict[int, int] = {}

    def take(self, message: Message) -> None:
        """Note one reply."""
        number = int(dict(message.headers() or [])["kafka_correlationId"])
        body = json.loads(message.value() or b"")
        self.replies[number] += 1
        code = body["error"]["code"] if body["error"] else "answered"
        self.codes[code] += 1
        if code == "answered":
            self.answered_ms[number] = message.timestamp()[1]
            if body["reply"] != question(number):
                self.wrong.append(number)


def question(number: int) -> str:
    """What the family asks in its request of this number."""
    return f"Question {number}?"


def flood(settings: Settings, elder_id: str, count: int) -> None:
    """Ask for so many trainings of one elder, a second apart and long ago."""
    producer = Producer(settings.kafka.producer() | {"linger.ms": 20})
    value = json.dumps({"elder_id": elder_id, "elder_name": "李秀梅", "force_retrain": True})
    for number in range(count):
        headers = [
            ("ce_id", f"{elder_id}-{number}".encode()),
            ("ce_source", b"upstream"),
            ("ce_specversion", b"1.0"),
            ("ce_type", event_type(TRAIN_REQUESTED.name).encode()),
            ("ce_time", format_time(BEGIN + timedelta(seconds=number)).encode()),
        ]
        producer.produce(
            settings.topic(TRAIN_REQUESTED.name), value, elder_id.encode(), headers=headers
        )
    assert producer.flush(STALL_S) == 0


def send(settings: Settings, name: str) -> dict[int, int]:
    """Send all requests over all partitions; when did the broker take each, in milliseconds?"""
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "linger.ms": 5})
    partitions = len(producer.list_topics(name, timeout=STALL_S).topics[name].partitions)
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
    assert producer.flush(STALL_S) == 0
    return taken


def is_stamped_by_the_broker(settings: Settings, name: str) -> bool:
    """Say whether the topic's records have the broker's time: the embedded one knows no such."""
    deadline = time.monotonic() + STALL_S
    with reading(settings, name) as consumer:
        while (found := consumer.poll(0.1)) is None or found.error() is not None:
            assert time.monotonic() < deadline
        return bool(found.timestamp()[0] == TIMESTAMP_LOG_APPEND_TIME)


@contextmanager
def reading(settings: Settings, name: str) -> Iterator[Consumer]:
    """Read a topic from its beginning, without a group."""
    options = {"group.id": f"{name}-reader", "enable.auto.commit": False, "log_level": 2}
    consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap_servers} | options)
    partitions = consumer.list_topics(name, timeout=STALL_S).topics[name].partitions
    consumer.assign([TopicPartition(name, p, 0) for p in partitions])
    yield consumer
    consumer.close()


def await_replies(consumer: Consumer, told: Told, member: Member) -> list[int]:
    """Take in a reply for each request; return what memory the member had meanwhile."""
    memory: list[int] = []
    came, looked = time.monotonic(), 0.0
    while len(told.replies) < RECORDS:
        for message in consumer.consume(500, 0.1):
            if message.error() is None:
                told.take(message)
                came = time.monotonic()
        if time.monotonic() - looked > 0.2:
            memory.append(member.memory_bytes())
            looked = time.monotonic()
        stalled = time.monotonic() - came
        assert stalled < STALL_S, f"stalled after {len(told.replies)} replies"
    return memory


@pytest.mark.timeout(180 + START_S + RECORDS // 50)
def test_backlog_is_held_back_and_each_request_told_once_and_in_time(
    settings: Settings, slow_ollama: SlowOllama, tmp_path: Path, wait_until: WaitUntil
) -> None:
    requests, replies = (settings.topic(t.name) for t in (CHAT_REQUESTS, CHAT_REPLIES))
    told = Told()
    with member_of("chat", settings, tmp_path) as member, reading(settings, replies) as consumer:
        wait_until(member.is_ready, "the chat role is ready", START_S)
        before = member.rebalances()
        begun = time.monotonic()
        sent: dict[int, int] = {}
        sending = threading.Thread(target=lambda: sent.update(send(settings, requests)))
        sending.start()
        memory = await_replies(consumer, told, member)
        seconds = time.monotonic() - begun
        sending.join()
        # What would be told twice is on its way by now.
        for message in consumer.consume(500, 1.0):
            told.take(message)
        after = member.rebalances()
        paused, resumed = member.logged("consumer.paused"), member.logged("consumer.resumed")
        assert member.logged("MAX_POLL") == 0
    half = len(memory) // 2
    growth = max(memory[half:]) - max(memory[: half or 1])
    late_ms = max((at - sent[number] for number, at in told.answered_ms.items()), default=0)
    print(
        f"{RECORDS} requests in {seconds:.1f} s ({RECORDS / seconds:.0f} a second): "
        f"{dict(told.codes)}, asked of Ollama {slow_ollama.asked}, slowest answer {late_ms} ms, "
        f"memory {min(memory) >> 20} to {max(memory) >> 20} MiB, growth in the second half "
        f"{growth >> 10} KiB, paused {paused} times, {after}"
    )
    assert told.replies == Counter(range(RECORDS)), "one reply a request"
    assert told.wrong == []
    assert set(told.codes) <= {"answered", "deadline_exceeded"}
    assert told.codes["answered"] > 0
    assert paused > 0 and resumed > 0, "it pauses, and goes on"
    assert after == before, "nobody was put out of the group"
    assert growth < MEMORY_BYTES
    if is_stamped_by_the_broker(settings, requests):
        assert told.codes["deadline_exceeded"] > 0
        assert late_ms < (DEADLINE_S + MARGIN_S) * 1000, "no answer comes late"
        # Only what was on its way when its time ran out was asked in vain.
        assert slow_ollama.asked <= told.codes["answered"] * 1.2 + settings.chat.concurrency * 4


@pytest.mark.timeout(180 + START_S + JOBS_QUEUED // 20)
def test_urgent_elder_does_not_wait_behind_thousands_of_jobs_of_another(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """Nobody has told anything, so each job ends as soon as it begins; their order is seen."""
    with (
        closing(open_client(settings.mongodb)) as client,
        member_of("training", settings, tmp_path) as member,
    ):
        jobs = client[settings.mongodb.database]["jobs"]
        wait_until(member.is_ready, "the training role is ready", START_S)
        before, memory = member.rebalances(), member.memory_bytes()
        flood(settings, FLOODED, JOBS_QUEUED)
        wait_until(
            lambda: jobs.count_documents({"elder_id": FLOODED}) == JOBS_QUEUED,
            "all are accepted",
            START_S + JOBS_QUEUED // 50,
        )
        waiting = jobs.count_documents({"elder_id": FLOODED, "status": "queued"})
        flood(settings, URGENT, 1)
        wait_until(
            lambda: jobs.count_documents({"elder_id": URGENT, "status": "failed"}) == 1,
            "the urgent job was tried",
            START_S,
        )
        (urgent,) = jobs.find({"elder_id": URGENT})
        between = {"$gt": urgent["queued_at"], "$lt": urgent["started_at"]}
        overtaking = jobs.count_documents({"elder_id": FLOODED, "started_at": between})
        growth = member.memory_bytes() - memory
        print(
            f"{waiting} jobs waited; {overtaking} of them began before the urgent one, which "
            f"waited {(urgent['started_at'] - urgent['queued_at']).total_seconds():.1f} s; "
            f"memory {memory >> 20} MiB, {growth >> 10} KiB more"
        )
        assert waiting > JOBS_QUEUED * 0.9
        # One was under way, and one may have been claimed in the same moment.
        assert overtaking <= 2
        assert member.rebalances() == before, "nobody was put out of the group"
        assert member.logged("MAX_POLL") == 0
        assert growth < MEMORY_BYTES
