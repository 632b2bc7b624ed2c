"""Answers become data sets; what cannot is set aside as a dead letter."""

import hashlib
import struct

from tests.integration.consumers.bad_records import (
    BAD_RECORDS,
    code_of,
    codes_of_all,
    send_all,
    wanted_codes,
)
from tests.integration.service import Service


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
    dead_letter = service.dead_letter("answers-updated", "as it came")
    assert (dead_letter.value, dead_letter.key, dead_letter.partition) == (
        b"\xff\xfe",
        b"\x00key",
        0,
    )
    topic = service.topic("answers-updated").encode()
    assert dead_letter.header("kafka_dlt-original-topic") == topic
    assert dead_letter.header("kafka_dlt-original-partition") == struct.pack(">i", 0)
    assert len(dead_letter.header("kafka_dlt-original-offset") or b"") == 8
    assert dead_letter.header("kafka_dlt-exception-fqcn") == b"schemas.errors.MalformedRecord"
