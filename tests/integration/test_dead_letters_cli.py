"""`modelserver dlt` on a real broker: each letter is found, and replay gives it back as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from consumers.app import App
from consumers.cli import dead_letters
from consumers.cli.main import app as cli
from consumers.topics import apply_topics
from producers.dead_letters import dead_letter
from schemas.errors import InvalidEvent
from schemas.record import Record

if TYPE_CHECKING:
    from config.settings import Settings
    from tests.integration.conftest import MakeSettings, Wire

LETTERS = 7


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
    """Put letters of two partitions on the topic, each partition's in one batch."""
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
        for number in range(LETTERS)
    ]
    producer = Producer(
        {"bootstrap.servers": settings.kafka.bootstrap_servers, "linger.ms": 100, "log_level": 2}
    )
    for record in records:
        letter = dead_letter(record, "group", InvalidEvent("broken"))
        producer.produce(
            letter.topic,
            key=letter.key,
            value=letter.value,
            headers=list(letter.headers),
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


def test_every_letter_of_a_batch_is_listed(settings: Settings) -> None:
    set_aside(settings)
    letters = run("list", "train-requested")["dead_letters"]
    assert sorted(letter["original_offset"] for letter in letters) == list(range(LETTERS))
    assert {letter["code"] for letter in letters} == {"invalid_event"}


def test_topic_without_letters_is_an_empty_list(settings: Settings) -> None:
    assert run("list", "chat-requests") == {"dead_letters": []}


def test_replay_gives_back_key_value_and_headers(
    settings: Settings, make_wire: Callable[[], Wire]
) -> None:
    records = set_aside(settings)
    assert run("replay", "train-requested") == {"replayed": LETTERS}
    wire = make_wire()
    wire.read([settings.topic("train-requested")])
    wire.find(lambda r: r.header("ce_id") == b"6", "the last letter")
    again = wire.all(lambda r: True)
    assert sorted((r.partition, r.key or b"", r.value or b"", r.headers) for r in again) == sorted(
        (r.partition, r.key or b"", r.value or b"", r.headers) for r in records
    )


def test_one_letter_alone_is_replayed(settings: Settings) -> None:
    set_aside(settings)
    assert run("replay", "train-requested", "--partition", "1", "--offset", "0") == {"replayed": 1}
