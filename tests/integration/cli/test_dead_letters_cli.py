"""`modelserver dlt` on a real broker: each dead letter is found, and replayed as it was."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from cli import dead_letters
from cli.main import app as cli
from config.metrics import Metrics
from consumers.app import App
from consumers.handlers.training import TrainingHandler
from consumers.kafka.dispatch import Dispatcher
from consumers.kafka.lanes import Work
from consumers.kafka.offsets import Ticket
from consumers.operations.topics import apply_topics
from pipeline.ledger.events import Announcer
from pipeline.ledger.ledger import Ledger
from producers.dead_letters import dead_letter, empty_dead_letter
from producers.publisher import KafkaPublisher, Publication
from schemas.errors import InvalidEvent, NoSuchTopic, UnknownDeadLetter
from schemas.record import Record
from tests.fakes.clock import fixed_clock
from tests.fakes.publisher import RecordingPublisher

if TYPE_CHECKING:
    from config.settings import Settings
    from pipeline.storage.mongo import Store
    from tests.integration.conftest import MakeSettings
    from tests.integration.wire import Wire

DEAD_LETTERS = 7
REPLAYED = {"replayed": DEAD_LETTERS, "repeated": 0, "left": 0}
BARE = b'{"elder_id": "BARE1", "elder_name": "x"}'


@pytest.fixture
def settings(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings with topics of their own, which the commands use too."""
    made = make_settings(tmp_path)
    apply_topics(made)
    monkeypatch.setattr(dead_letters, "open_app", lambda: _Opened(made))
    return made


class _Opened:
    """What `open_app` gives, over the test's settings."""

    def __init__(self, settings: Settings) -> None:
        self._app = App(settings)

    def __enter__(self) -> App:
        return self._app

    def __exit__(self, *exc: object) -> None:
        self._app.close()


def set_aside(settings: Settings) -> list[Record]:
    """Put dead letters of two partitions on the topic, each partition's in one batch."""
    records = [
        Record(
            topic=settings.topic("train-requested"),
            partition=number % 2,
            offset=number,
            key=None if number == 0 else f"K{number}".encode(),
            value=None if number == 1 else b"\xff broken \x00",
            headers=(("ce_id", f"{number}".encode()), ("empty", None)),
            timestamp_ms=1,
            timestamp_type="create",
        )
        for number in range(DEAD_LETTERS)
    ]
    producer = Producer(
        {"bootstrap.servers": settings.kafka.bootstrap_servers, "linger.ms": 100, "log_level": 2}
    )
    for record in records:
        dead = dead_letter(record, "group", InvalidEvent("broken"))
        producer.produce(
            dead.topic,
            key=dead.key,
            value=dead.value,
            headers=list(dead.headers),
            partition=record.partition,
        )
    assert producer.flush(20) == 0
    return records


def run(*words: str) -> dict[str, Any]:
    """Run a command with --json and return its object."""
    result = CliRunner().invoke(cli, ["dlt", *words, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_every_dead_letter_of_a_batch_is_listed(settings: Settings) -> None:
    set_aside(settings)
    listed = run("list", "train-requested")["dead_letters"]
    assert sorted(found["original_offset"] for found in listed) == list(range(DEAD_LETTERS))
    assert {found["code"] for found in listed} == {"invalid_event"}


def test_topic_without_dead_letters_is_an_empty_list(settings: Settings) -> None:
    assert run("list", "chat-requests") == {"dead_letters": []}


def test_replay_gives_back_key_value_and_headers(
    settings: Settings, make_wire: Callable[[], Wire]
) -> None:
    records = set_aside(settings)
    assert run("replay", "train-requested") == REPLAYED
    wire = make_wire()
    wire.read([settings.topic("train-requested")])
    wire.find(lambda r: r.header("ce_id") == b"6", "the last dead letter")
    again = wire.all(lambda r: True)
    assert sorted((r.partition, r.key or b"", r.value or b"", r.headers) for r in again) == sorted(
        (r.partition, r.key or b"", r.value or b"", r.headers) for r in records
    )


def test_one_dead_letter_alone_is_replayed(settings: Settings) -> None:
    set_aside(settings)
    found = run("replay", "train-requested", "--partition", "1", "--offset", "0")
    assert found == {"replayed": 1, "repeated": 0, "left": 0}


def test_it_is_shown_with_its_reason_and_its_value_only_when_asked(settings: Settings) -> None:
    (one, *_) = set_aside(settings)
    place = ("train-requested", "--partition", "0", "--offset", "0")
    shown = run("show", *place)
    assert (shown["code"], shown["message"]) == ("invalid_event", "broken")
    assert shown["headers"] == [["ce_id", "0"], ["empty", None]]
    assert shown["consumer_group"] == "group"
    assert "value" not in shown
    encoded = run("show", *place, "--value")["value"]["base64"]
    assert base64.b64decode(encoded) == one.value


@pytest.mark.parametrize("place", [(0, 999), (99, 0)])
def test_dead_letter_that_is_not_there_is_said_to_be_unknown(
    settings: Settings, place: tuple[int, int]
) -> None:
    partition, offset = map(str, place)
    words = ["dlt", "show", "train-requested", "--partition", partition, "--offset", offset]
    assert isinstance(CliRunner().invoke(cli, words).exception, UnknownDeadLetter)


@pytest.mark.parametrize("command", ["list", "replay"])
def test_topic_that_is_not_there_is_a_clear_error(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    made = make_settings(tmp_path)
    monkeypatch.setattr(dead_letters, "open_app", lambda: _Opened(made))
    fault = CliRunner().invoke(cli, ["dlt", command, "train-requested"]).exception
    assert isinstance(fault, NoSuchTopic)
    assert "modelserver topics apply" in fault.message


def test_bare_request_replayed_again_and_again_is_one_job(
    settings: Settings, make_wire: Callable[[], Wire], store: Store
) -> None:
    """Through several rounds: the second dead letter is of the replayed record."""
    topic = settings.topic("train-requested")
    wire = make_wire()
    put(settings, bare(topic, offset=5))
    run("replay", "train-requested")
    run("replay", "train-requested")
    wire.read([topic])
    once, twice = wire.all(lambda r: True)
    assert (once.key, once.value, once.headers) == (twice.key, twice.value, twice.headers)
    put(settings, twice)
    assert run("replay", "train-requested") == {"replayed": 1, "repeated": 1, "left": 0}
    wire.find(lambda r: r.offset == 2, "the third")
    ledger = Ledger(store, Announcer(fixed_clock, "en"), lease_s=5, fair_s=60)
    publisher = RecordingPublisher()
    dispatcher = Dispatcher(
        "train-requested",
        "group",
        TrainingHandler(ledger, settings.training(), lambda: None),
        publisher.confirm,
        Metrics(),
        threading.Event(),
        max_bytes=2**20,
    )
    ticket = Ticket(topic=topic, partition=0, offset=0, assignment=1)
    again = wire.all(lambda r: True)
    dispatcher.process([Work(record=r, ticket=ticket) for r in (bare(topic, offset=5), *again)])
    assert publisher.published == []
    assert [job.elder_id for job in ledger.jobs()] == ["BARE1"]
    assert len(again) == 3


def test_dead_letter_that_is_not_ours_or_not_whole_is_left(settings: Settings) -> None:
    record = bare(settings.topic("train-requested"), offset=5)
    foreign = dead_letter(record, "group", InvalidEvent()).model_copy(update={"headers": ()})
    other = dead_letter(bare("elsewhere", offset=5), "group", InvalidEvent())
    produce(settings, foreign)
    produce(settings, other.model_copy(update={"topic": f"{record.topic}-dlt"}))
    produce(settings, empty_dead_letter(record, "group", InvalidEvent()))
    assert run("replay", "train-requested") == {"replayed": 0, "repeated": 0, "left": 3}
    assert len(run("list", "train-requested")["dead_letters"]) == 3


def bare(topic: str, offset: int) -> Record:
    """A good request without any header."""
    return Record(topic=topic, partition=0, offset=offset, key=b"BARE1", value=BARE, timestamp_ms=1)


def put(settings: Settings, record: Record) -> None:
    """Set a record aside."""
    produce(settings, dead_letter(record, "group", InvalidEvent()))


def produce(settings: Settings, dead: Publication) -> None:
    """Put a dead letter on its topic."""
    with KafkaPublisher(settings.kafka, Metrics()) as publisher:
        publisher.confirm([dead])
