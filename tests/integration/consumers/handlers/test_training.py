"""A train request becomes one job with one end; what cannot is set aside as a dead letter."""

import json

from tests.integration.consumers.bad_records import (
    BAD_RECORDS,
    codes_of_all,
    send_all,
    wanted_codes,
)
from tests.integration.service import Service


def test_train_requested_is_queued_told_of_and_ends_once(service: Service) -> None:
    """The elder has no answers, so the job fails: one terminal event says why."""
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
