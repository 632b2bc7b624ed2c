"""Each model command is answered once, with its result or its error code."""

import json
import struct
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.errors import JobAlreadyEnded
from tests.fakes.jobs import make_job
from tests.integration.consumers.bad_records import (
    BAD_RECORDS,
    code_of,
    codes_of_all,
    send_all,
    wanted_codes,
)
from tests.integration.consumers.models import register_model
from tests.integration.service import Service


def test_every_command_is_answered(service: Service) -> None:
    service.answers("COMMAND1", ("Where were you born?", "In Stromness, by the harbour."))
    service.send(
        "train-requested", {"elder_id": "COMMAND2", "elder_name": "x", "job_id": "command-job"}
    )
    service.event(
        "train-progress", lambda d: d["job_id"] == "command-job" and d["status"] == "failed"
    )
    assert service.ask({"command": "list"})["result"] == {"models": []}
    assert service.ask({"command": "list", "filter_afs_only": False})["error"] is None
    export = service.ask({"command": "export_jsonl", "elder_id": "COMMAND1"})["result"]
    assert (export["elder_id"], export["examples"]) == ("COMMAND1", 1)
    job = service.ask({"command": "job", "job_id": "command-job"})["result"]
    assert (job["job_id"], job["status"]) == ("command-job", "failed")
    for name in ("prioritize_job", "hurry_job"):
        prioritized = service.ask({"command": name, "job_id": "command-job"})["error"]
        assert prioritized["code"] == JobAlreadyEnded.code
    jobs = service.ask({"command": "jobs", "elder_id": "COMMAND2", "limit": 1})["result"]["jobs"]
    assert [j["job_id"] for j in jobs] == ["command-job"]
    assert "outbox" not in job and "request_id" not in job


def test_command_that_is_delivered_again_is_answered_as_the_first_time(service: Service) -> None:
    """A member that dies before its commit gets the record again: the event's id tells.

    The same command under a new id is a new request.
    """
    register_model(service.app.store, "AGAIN1")
    waiting = make_job(
        id="again-job", status="queued", not_before=datetime(2099, 1, 1, tzinfo=UTC), fence=0
    )
    service.app.store["jobs"].insert_one(
        waiting.model_dump(by_alias=True) | {"queue_order": 1, "has_pending": False}
    )
    delete = {"command": "delete", "elder_id": "AGAIN1"}
    cancel = {"command": "cancel_job", "job_id": "again-job"}
    for command, refused in ((delete, "model_not_ready"), (cancel, "job_already_ended")):

        def ask(number: int, event: bytes, command: dict[str, Any] = command) -> dict[str, Any]:
            headers = (("ce_id", event), ("ce_source", b"family"), ("ce_specversion", b"1.0"))
            ce_type = ("ce_type", b"heirloom.model-commands.v1")
            # The correlation id is the delivery's; source and id make it the same request.
            correlation = f"{command['command']}-{number}".encode()
            correlated = ("kafka_correlationId", correlation)
            service.send("model-commands", command, correlated, *headers, ce_type)
            reply: dict[str, Any] = json.loads(
                service.reply("model-replies", correlation).value or b""
            )
            return reply

        first = ask(1, b"one")
        assert first["error"] is None
        assert ask(2, b"one") == first
        assert ask(3, b"two")["error"]["code"] == refused
    assert first["result"]["status"] == "cancelled"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"command": "get", "elder_id": "NOMODEL"}, "model_not_ready"),
        ({"command": "delete", "elder_id": "NOMODEL"}, "model_not_ready"),
        ({"command": "rollback", "elder_id": "NOMODEL"}, "model_not_ready"),
        ({"command": "export_jsonl", "elder_id": "NOMODEL"}, "unknown_elder"),
        ({"command": "job", "job_id": "nope"}, "unknown_job"),
        ({"command": "cancel_job", "job_id": "nope"}, "unknown_job"),
        ({"command": "prioritize_job", "job_id": "nope"}, "unknown_job"),
        ({"command": "hurry_job", "job_id": "nope"}, "unknown_job"),
        ({"command": "hurry_job", "job_id": "../x"}, "invalid_event"),
        ({"command": "explode"}, "unknown_command"),
        ({"elder_id": "X"}, "invalid_event"),
        ({"command": "get"}, "invalid_event"),
        ({"command": "get", "elder_id": "../x"}, "invalid_event"),
        ({"command": "get", "elder_id": {"$gt": ""}}, "invalid_event"),
        ({"command": "job", "job_id": "../x"}, "invalid_event"),
        ({"command": "jobs", "limit": 0}, "invalid_event"),
        ({"command": "rollback", "elder_id": "X", "version": 0}, "invalid_event"),
    ],
)
def test_command_that_cannot_be_done_is_answered_with_its_code(
    service: Service, command: dict[str, Any], code: str
) -> None:
    reply = service.ask(command)
    assert reply["result"] is None
    assert reply["error"]["code"] == code


def test_bad_command_records_are_dealt_with_and_the_next_is_answered(service: Service) -> None:
    """What is not JSON names no reader and becomes a dead letter; everything else is answered."""
    send_all(service, "model-commands", BAD_RECORDS)
    malformed = {c: v for c, v in BAD_RECORDS.items() if v[1] == "malformed_record"}
    assert codes_of_all(service, "model-commands", malformed) == wanted_codes(malformed)
    assert service.ask({"command": "list", "after": "bad"})["error"] is None


def test_longest_event_id_is_still_answered(service: Service) -> None:
    headers = (
        ("ce_id", b"i" * 512),
        ("ce_source", b"upstream"),
        ("ce_specversion", b"1.0"),
        ("ce_type", b"heirloom.model-commands.v1"),
    )
    assert service.ask({"command": "list", "long": "id"}, *headers)["error"] is None


def test_reply_partition_that_does_not_exist_blocks_nobody(service: Service) -> None:
    """A reply that no broker can take becomes a dead letter; the next command is answered."""
    chat = {"elder_id": "STRANGER", "message": "Hello?"}
    for topic, replies, data in (
        ("model-commands", "model-replies", {"command": "list"}),
        ("chat-requests", "chat-replies", chat),
    ):
        service.send(
            topic,
            data,
            ("kafka_replyTopic", service.topic(replies).encode()),
            ("kafka_replyPartition", struct.pack(">i", 4000)),
            ("case", b"no such partition"),
        )
        dead_letter = service.dead_letter(topic, "no such partition")
        assert code_of(dead_letter) == "reply_topic_refused"
    assert service.ask({"command": "list", "after": "no such partition"})["error"] is None
