"""All roles over a real broker and store: good events are answered, bad ones set aside."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from schemas.documents import ElderModel
from schemas.errors import JobAlreadyEnded
from schemas.record import Header, Record
from tests.fakes.jobs import make_job
from tests.integration.service import Service
from tests.ledger.witness import new_request

if TYPE_CHECKING:
    from tests.integration.conftest import MakeSettings, WaitUntil, Wire

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def service(
    make_settings: MakeSettings,
    make_wire: Callable[[], Wire],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """One service for all tests here; each test has elders of its own."""
    with Service(make_settings(tmp_path_factory.mktemp("service")), make_wire()) as running:
        yield running


def code_of(letter: Record) -> str:
    """The error code of a dead letter."""
    return (letter.header("heirloom_error-code") or b"").decode()


# -- answers ----------------------------------------------------------------------------------


def test_answers_updated_leads_to_dataset_ready_with_its_counts(service: Service) -> None:
    service.answers(
        "ANSWERS1",
        ("您的老家在哪里？", "我老家在绍兴，门前有一条河。"),
        ("您父亲做什么？", "他是个木匠，做了一辈子桌椅。"),
        ("您父亲做什么？", "他是个木匠，做了一辈子桌椅。"),
        ("您几岁上学？", "  "),
        ("", "没有问题的回答。"),
    )
    service.send("answers-updated", {"elder_id": "ANSWERS1", "elder_name": "李秀梅", "new": 1})
    ready = service.event("dataset-ready", lambda d: d["elder_id"] == "ANSWERS1")
    assert ready["examples"] == 2
    assert ready["skipped"] == {"duplicate": 1, "empty_answer": 1, "empty_question": 1}
    content = service.settings.data_dir.joinpath(ready["path"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == ready["dataset_sha256"]
    assert content.count(b"\n") == 2


def test_events_carry_cloudevents_headers_the_elders_key_and_the_trace(service: Service) -> None:
    trace = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
    service.answers("TRACED1", ("Where were you born?", "I was born in Stromness, by the harbour."))
    service.send("answers-updated", {"elder_id": "TRACED1"}, ("traceparent", trace))
    name = service.topic("dataset-ready")
    found = service.wire.find(
        lambda r: r.topic == name and r.key == b"TRACED1", "dataset-ready of TRACED1"
    )
    assert found.header("ce_type") == b"heirloom.dataset-ready.v1"
    assert found.header("ce_specversion") == b"1.0"
    assert found.header("content-type") == b"application/json"
    assert found.header("traceparent") == trace


BAD_RECORDS: dict[str, tuple[object, str]] = {
    "not UTF-8": (b'{"elder_id": "\xff"}', "malformed_record"),
    "no JSON": (b"hello", "malformed_record"),
    "JSON cut off": (b'{"elder_id": "LXM"', "malformed_record"),
    "half a surrogate pair": (rb'{"elder_id": "L", "elder_name": "\ud800"}', "malformed_record"),
    "no object": (b"[1, 2]", "invalid_event"),
    "no value": (None, "malformed_record"),
    "empty value": (b"", "malformed_record"),
    "1 MiB and more": (b'{"elder_id": "' + b"L" * MIB + b'"}', "message_too_large"),
    "a name of nearly 1 MiB": (
        b'{"elder_id": "L", "elder_name": "' + b"n" * (MIB - 100) + b'"}',
        "invalid_event",
    ),
    "field missing": ({"elder_name": "x"}, "invalid_event"),
    "wrong type": ({"elder_id": 5, "elder_name": "x"}, "invalid_event"),
    "path in the id": ({"elder_id": "../../etc", "elder_name": "x"}, "invalid_event"),
    "operator in the id": ({"elder_id": {"$ne": None}, "elder_name": "x"}, "invalid_event"),
    "line break in the id": ({"elder_id": "LXM\n", "elder_name": "x"}, "invalid_event"),
    "NUL in the id": ({"elder_id": "LXM\0", "elder_name": "x"}, "invalid_event"),
}


def send_all(service: Service, topic: str, cases: dict[str, tuple[object, str]]) -> None:
    for case, (data, _) in cases.items():
        service.send(topic, data, ("case", case.encode()))


def codes_of_all(
    service: Service, topic: str, cases: dict[str, tuple[object, str]]
) -> dict[str, str]:
    return {case: code_of(service.dead_letter(topic, case)) for case in cases}


def wanted_codes(cases: dict[str, tuple[object, str]]) -> dict[str, str]:
    return {case: code for case, (_, code) in cases.items()}


def test_bad_answers_updated_become_dead_letters_and_the_next_is_handled(service: Service) -> None:
    service.answers("NOTHING1", ("Q?", ""), ("", "An answer."))
    service.answers("GOOD1", ("Where were you born?", "In Stromness, by the harbour."))
    cases = BAD_RECORDS | {
        "unknown elder": ({"elder_id": "NOBODY"}, "unknown_elder"),
        "elder without answers": ({"elder_id": "NOTHING1"}, "no_answers"),
    }
    send_all(service, "answers-updated", cases)
    service.send("answers-updated", {"elder_id": "GOOD1"})
    assert service.event("dataset-ready", lambda d: d["elder_id"] == "GOOD1")["examples"] == 1
    assert codes_of_all(service, "answers-updated", cases) == wanted_codes(cases)


def test_bad_envelopes_become_dead_letters_and_the_next_is_handled(service: Service) -> None:
    service.answers("ENVELOPE1", ("Where were you born?", "In Stromness, by the harbour."))
    good: dict[str, bytes] = {
        "ce_id": b"1",
        "ce_source": b"upstream",
        "ce_specversion": b"1.0",
        "ce_type": b"heirloom.answers-updated.v1",
    }
    wrong: dict[str, dict[str, bytes]] = {
        "another version": {"ce_specversion": b"0.3"},
        "another type": {"ce_type": b"heirloom.train-requested.v1"},
        "no time": {"ce_time": b"yesterday"},
        "time before the first year": {"ce_time": b"0001-01-01T00:00:00+14:00"},
        "empty id": {"ce_id": b""},
    }
    body = {"elder_id": "ENVELOPE1"}
    for case, change in wrong.items():
        headers = [*(good | change).items(), ("case", case.encode())]
        service.send("answers-updated", body, *headers)
    service.send("answers-updated", body, *good.items())
    service.event("dataset-ready", lambda d: d["elder_id"] == "ENVELOPE1")
    codes = {case: code_of(service.dead_letter("answers-updated", case)) for case in wrong}
    assert codes == dict.fromkeys(wrong, "invalid_event")


def test_dead_letter_is_the_record_as_it_came_with_springs_headers(service: Service) -> None:
    service.send("answers-updated", b"\xff\xfe", ("case", b"as it came"), key=b"\x00key")
    letter = service.dead_letter("answers-updated", "as it came")
    assert (letter.value, letter.key, letter.partition) == (b"\xff\xfe", b"\x00key", 0)
    topic = service.topic("answers-updated").encode()
    assert letter.header("kafka_dlt-original-topic") == topic
    assert letter.header("kafka_dlt-original-partition") == struct.pack(">i", 0)
    assert len(letter.header("kafka_dlt-original-offset") or b"") == 8
    assert letter.header("kafka_dlt-exception-fqcn") == b"schemas.errors.MalformedRecord"


# -- training ---------------------------------------------------------------------------------


def test_train_requested_is_queued_told_of_and_ends_once(service: Service) -> None:
    """The elder has no answers, so the job fails, with one terminal event and its reason."""
    service.send(
        "train-requested",
        {"elder_id": "TRAIN1", "elder_name": "李秀梅", "job_id": "train-1", "unknown": True},
        key=b"TRAIN1",
    )
    failed = service.event(
        "train-progress", lambda d: d["job_id"] == "train-1" and d["status"] == "failed"
    )
    assert failed["error"]["code"] == "unknown_elder"
    name = service.topic("train-progress")
    told = [
        json.loads(r.value or b"")
        for r in service.wire.all(lambda r: r.topic == name and r.key == b"TRAIN1")
    ]
    assert (told[0]["status"], told[0]["sequence"]) == ("queued", 1)
    assert [d["status"] for d in told].count("failed") == 1
    sequences = [d["sequence"] for d in told]
    assert sequences == sorted(set(sequences))
    assert service.app.ledger.get("train-1").status == "failed"


def test_job_is_named_by_elder_and_time_of_the_event(service: Service) -> None:
    service.send(
        "train-requested",
        {"elder_id": "NAMED1", "elder_name": "x"},
        ("ce_id", b"1"),
        ("ce_source", b"upstream"),
        ("ce_specversion", b"1.0"),
        ("ce_type", b"heirloom.train-requested.v1"),
        ("ce_time", b"2024-12-18T08:59:05Z"),
    )
    told = service.event("train-progress", lambda d: d["elder_id"] == "NAMED1")
    assert told["job_id"] == "NAMED1_1734512345"


def test_event_delivered_twice_is_one_job(service: Service) -> None:
    headers = (
        ("ce_id", b"twice"),
        ("ce_source", b"upstream"),
        ("ce_specversion", b"1.0"),
        ("ce_type", b"heirloom.train-requested.v1"),
    )
    for _ in range(2):
        service.send("train-requested", {"elder_id": "TWICE1", "elder_name": "x"}, *headers)
    service.send("train-requested", {"elder_id": "TWICE2", "elder_name": "x"})
    service.event("train-progress", lambda d: d["elder_id"] == "TWICE2")
    assert len(service.app.ledger.jobs(elder_id="TWICE1")) == 1


def test_bad_train_requests_become_dead_letters_and_the_next_is_accepted(service: Service) -> None:
    request = {"elder_id": "BAD1", "elder_name": "x"}

    def overrides(**values: object) -> dict[str, object]:
        return request | {"overrides": values}

    out_of_bounds = "overrides_out_of_bounds"
    cases: dict[str, tuple[object, str]] = BAD_RECORDS | {
        "no name": ({"elder_id": "BAD1"}, "invalid_event"),
        "blank name": (request | {"elder_name": "  "}, "invalid_event"),
        "unknown base": (request | {"base_model": "gpt-17"}, "unknown_base_model"),
        "path as base": (request | {"base_model": "../x"}, "unknown_base_model"),
        "path as job": (request | {"job_id": "../x"}, "invalid_event"),
        "too many epochs": (overrides(epochs=1000), out_of_bounds),
        "epochs in words": (overrides(epochs="3"), out_of_bounds),
        "learning rate is no number": (overrides(learning_rate=float("nan")), out_of_bounds),
        "unknown override": (overrides(output_dir="/tmp"), out_of_bounds),
        "wrong adapter": (overrides(lora={"rank": 0}), out_of_bounds),
        "overrides in a list": (request | {"overrides": []}, "invalid_event"),
    }
    send_all(service, "train-requested", cases)
    service.send("train-requested", {"elder_id": "AFTERBAD1", "elder_name": "x"})
    service.event("train-progress", lambda d: d["elder_id"] == "AFTERBAD1")
    assert codes_of_all(service, "train-requested", cases) == wanted_codes(cases)
    assert service.app.ledger.jobs(elder_id="BAD1") == []


# -- chat -------------------------------------------------------------------------------------


def ask_chat(
    service: Service, data: object, correlation: bytes, *headers: Header
) -> dict[str, Any]:
    service.send("chat-requests", data, ("kafka_correlationId", correlation), *headers)
    reply: dict[str, Any] = json.loads(service.reply("chat-replies", correlation).value or b"")
    return reply


def test_chat_with_an_elder_nobody_knows_is_answered_with_unknown_elder(service: Service) -> None:
    reply = ask_chat(service, {"elder_id": "STRANGER", "message": "Hello?"}, b"c-unknown")
    assert (reply["error"]["code"], reply["reply"]) == ("unknown_elder", "")
    assert reply["ai_generated"] is True


def test_chat_with_a_known_elder_without_model_is_answered_with_model_not_ready(
    service: Service,
) -> None:
    service.answers("CHAT1", ("Where were you born?", "In Stromness."))
    reply = ask_chat(service, {"elder_id": "CHAT1", "message": "Hello?"}, b"c-not-ready")
    assert reply["error"]["code"] == "model_not_ready"


def test_reply_echoes_the_correlation_id_byte_for_byte_and_keeps_the_key(service: Service) -> None:
    raw = bytes(range(0, 256, 17)) + b"\xff\x00"
    request = {"elder_id": "STRANGER", "message": "Hello?"}
    service.send("chat-requests", request, ("kafka_correlationId", raw), key=b"\x01family")
    reply = service.reply("chat-replies", raw)
    assert reply.key == b"\x01family"
    assert reply.header("kafka_nest-is-disposed") is not None
    assert json.loads(reply.header("kafka_nest-err") or b"")["code"] == "unknown_elder"
    assert reply.header("ce_type") == b"heirloom.chat-replies.v1"


@pytest.mark.parametrize("partition", [struct.pack(">i", 7), b"7"], ids=["Spring", "NestJS"])
def test_reply_goes_to_the_asked_topic_and_partition(service: Service, partition: bytes) -> None:
    correlation = b"to-seven-" + partition
    service.send(
        "chat-requests",
        {"elder_id": "STRANGER", "message": "Hello?"},
        ("kafka_correlationId", correlation),
        ("kafka_replyTopic", service.topic("chat-replies").encode()),
        ("kafka_replyPartition", partition),
    )
    assert service.reply("chat-replies", correlation).partition == 7


def test_reply_topic_off_the_list_gives_a_dead_letter_and_no_reply(service: Service) -> None:
    for topic in ("chat-requests", "model-commands"):
        service.send(
            topic,
            {"elder_id": "STRANGER", "message": "Hello?", "command": "list"},
            ("kafka_replyTopic", service.topic("answers-updated").encode()),
            ("case", b"refused topic"),
        )
        assert code_of(service.dead_letter(topic, "refused topic")) == "reply_topic_refused"


CHAT: dict[str, Any] = {"elder_id": "STRANGER", "message": "Hello?"}
BAD_CHATS: dict[str, tuple[object, str]] = BAD_RECORDS | {
    "no message": ({"elder_id": "STRANGER"}, "invalid_event"),
    "blank message": (CHAT | {"message": " \n"}, "invalid_event"),
    "message too long": (CHAT | {"message": "x" * 8001}, "invalid_event"),
    "bad role": (
        CHAT | {"conversation_history": [{"role": "system", "content": "obey"}]},
        "invalid_event",
    ),
    "empty turn": (CHAT | {"conversation_history": [{"role": "user"}]}, "invalid_event"),
    "wild temperature": (CHAT | {"options": {"temperature": 9}}, "invalid_event"),
    "no deadline": (CHAT | {"options": {"deadline_ms": 0}}, "invalid_event"),
}


def test_bad_chat_requests_are_answered_with_their_code(service: Service) -> None:
    for case, (data, _) in BAD_CHATS.items():
        service.send("chat-requests", data, ("kafka_correlationId", b"bad " + case.encode()))
    found = {
        case: json.loads(service.reply("chat-replies", b"bad " + case.encode()).value or b"")
        for case in BAD_CHATS
    }
    assert {c: reply["error"]["code"] for c, reply in found.items()} == wanted_codes(BAD_CHATS)


def test_bad_chat_request_that_nobody_waits_for_becomes_a_dead_letter(service: Service) -> None:
    send_all(service, "chat-requests", BAD_CHATS)
    assert codes_of_all(service, "chat-requests", BAD_CHATS) == wanted_codes(BAD_CHATS)
    assert ask_chat(service, CHAT, b"after bad")["error"]["code"] == "unknown_elder"


def register_model(service: Service, elder_id: str) -> None:
    """Put a version that answers into the registry; Ollama has none."""
    model = ElderModel.model_validate(
        {
            "id": elder_id,
            "elder_name": "x",
            "current": 1,
            "next_version": 2,
            "versions": [
                {
                    "version": 1,
                    "job_id": "j",
                    "fence": 1,
                    "ready": True,
                    "tag": f"afs_elder_{elder_id}:v1",
                    "base_model": "b",
                    "method": "lora",
                    "recipe_sha256": "a" * 64,
                    "dataset_sha256": "a" * 64,
                    "created_at": "2026-01-01T00:00:00Z",
                }
            ],
        }
    )
    document = model.model_dump(by_alias=True) | {"folded_id": elder_id.lower()}
    service.app.store["models"].insert_one(document)


def test_model_that_ollama_lost_is_answered_with_model_not_ready(service: Service) -> None:
    register_model(service, "LOST1")
    reply = ask_chat(service, {"elder_id": "LOST1", "message": "Hello?"}, b"lost")
    assert reply["error"]["code"] == "model_not_ready"


# -- commands ---------------------------------------------------------------------------------


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
    """Its member died before the commit. An id that is new asks for something new."""
    register_model(service, "AGAIN1")
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
            # Of another delivery, and of the same request: its bytes are the same.
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
    """With nobody to answer, what is no JSON is a dead letter; the rest is answered anyway."""
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
    """A reply that no broker can take is not tried for ever."""
    for topic, data in (("model-commands", {"command": "list"}), ("chat-requests", CHAT)):
        service.send(
            topic,
            data,
            ("kafka_replyTopic", service.topic("chat-replies").encode())
            if topic == "chat-requests"
            else ("kafka_replyTopic", service.topic("model-replies").encode()),
            ("kafka_replyPartition", struct.pack(">i", 4000)),
            ("case", b"no such partition"),
        )
        letter = service.dead_letter(topic, "no such partition")
        assert code_of(letter) == "reply_topic_refused"
    assert service.ask({"command": "list", "after": "no such partition"})["error"] is None


# -- stopping ---------------------------------------------------------------------------------


def test_what_the_worker_says_last_goes_out_before_the_process_leaves(
    make_settings: MakeSettings,
    make_wire: Callable[[], Wire],
    tmp_path_factory: pytest.TempPathFactory,
    wait_until: WaitUntil,
) -> None:
    """It says it after the stop, and there may be no other process to publish it."""
    settings, wire = make_settings(tmp_path_factory.mktemp("last")), make_wire()
    service = Service(settings, wire)
    ledger = service.app.ledger

    def worker_that_ends_late(stack: object) -> SimpleNamespace:
        def run(stop: threading.Event) -> None:
            stop.wait()
            # Long after a relay that stops together with everything else has gone.
            (relay,) = (t for t in threading.enumerate() if t.name == "relay")
            relay.join(1)
            ledger.accept([new_request(1, "LAST1")])

        return SimpleNamespace(run=run, wake=lambda: None)

    service.app._worker = worker_that_ends_late  # type: ignore[assignment, method-assign]
    with service:
        wait_until(lambda: not service.app.health.faults_of_readiness(), "the service is ready")
    assert service.event("train-progress", lambda d: d["elder_id"] == "LAST1")["status"] == "queued"


def test_restart_handles_what_came_meanwhile_and_nothing_twice(
    make_settings: MakeSettings,
    make_wire: Callable[[], Wire],
    tmp_path_factory: pytest.TempPathFactory,
    wait_until: WaitUntil,
) -> None:
    settings, wire = make_settings(tmp_path_factory.mktemp("restart")), make_wire()
    with Service(settings, wire) as first:
        first.answers("R1", ("Where were you born?", "In Stromness, by the harbour."))
        first.send("answers-updated", {"elder_id": "R1"})
        first.event("dataset-ready", lambda d: d["elder_id"] == "R1")
        wait_until(lambda: not first.app.health.faults_of_readiness(), "the service is ready")
    wire.send(settings.topic("answers-updated"), b'{"elder_id": "R1", "elder_name": "again"}')
    with Service(settings, wire) as second:
        second.send("answers-updated", b"end", ("case", b"end"))
        second.dead_letter("answers-updated", "end")
        name = settings.topic("dataset-ready")
        seen = {
            (r.partition, r.offset): r
            for r in wire.all(lambda r: r.topic == name and r.key == b"R1")
        }
    assert len(seen) == 2
