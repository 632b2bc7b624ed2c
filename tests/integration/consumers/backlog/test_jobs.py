"""Thousands of jobs of one elder wait, and a job of another elder starts before them.

`MODELSERVER_BACKLOG_JOBS=10000 pytest -s tests/integration/consumers/backlog/test_jobs.py` is the
long run; docs/reliability.md has its figures.
"""

import json
import os
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer

from config.settings import Settings
from pipeline.storage.mongo import open_client
from schemas.envelope import event_type, format_time
from schemas.topics import TRAIN_REQUESTED
from tests.integration.consumers.backlog.member import (
    CALL_LIMIT_S,
    MEMORY_BYTES,
    START_S,
    member_of,
)
from tests.waiting import wait_for, wait_for_value

JOBS_QUEUED = int(os.environ.get("MODELSERVER_BACKLOG_JOBS", "2000"))
ACCEPT_LIMIT_S = 300.0 + JOBS_QUEUED // 20
FLOODED, URGENT = "FLOODED1", "URGENT1"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def flood(settings: Settings, elder_id: str, count: int) -> None:
    """Ask for `count` trainings of one elder; their events are a second apart, and long ago."""
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
    assert producer.flush(CALL_LIMIT_S) == 0


@pytest.mark.timeout(60 + START_S + 2 * ACCEPT_LIMIT_S)
def test_urgent_elder_does_not_wait_behind_thousands_of_jobs_of_another(
    settings: Settings, tmp_path: Path
) -> None:
    """No elder has answers, so each job fails as soon as it starts: only the order matters."""
    with (
        closing(open_client(settings.mongodb)) as client,
        member_of("training", settings, tmp_path) as member,
    ):
        jobs = client[settings.mongodb.database]["jobs"]
        member.wait_until_ready()
        before, memory = member.rebalances(), member.memory_bytes()

        # One elder asks for thousands of trainings; all are accepted, and most of them wait.
        flood(settings, FLOODED, JOBS_QUEUED)
        wait_for_value(
            JOBS_QUEUED,
            lambda: jobs.count_documents({"elder_id": FLOODED}),
            "accepted jobs:",
            limit_s=ACCEPT_LIMIT_S,
        )
        waiting = jobs.count_documents({"elder_id": FLOODED, "status": "queued"})

        # Another elder asks for one.
        flood(settings, URGENT, 1)
        wait_for(
            lambda: jobs.count_documents({"elder_id": URGENT, "status": "failed"}) == 1,
            "the urgent job was tried",
            progress=lambda: jobs.count_documents({"elder_id": FLOODED, "status": "queued"}),
            limit_s=ACCEPT_LIMIT_S,
        )

        # Which jobs started while hers waited?
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
        # One job was running, and one may have been claimed at the same moment.
        assert overtaking <= 2
        assert member.rebalances() == before, "the member stayed in its group"
        assert member.logged("MAX_POLL") == 0
        assert growth < MEMORY_BYTES
