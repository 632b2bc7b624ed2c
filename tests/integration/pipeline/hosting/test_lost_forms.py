"""A model that its host has lost: the family is told which job brings it back, and it does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from consumers.app import utc_now
from schemas.documents import ModelVersion
from tests.fakes.jobs import make_job
from tests.integration.service import Service

if TYPE_CHECKING:
    from tests.integration.conftest import MakeSettings
    from tests.integration.wire import Wire

MADE_OF = {
    "base_model": "smollm2-135m-instruct",
    "method": "lora",
    "recipe_sha256": "a" * 64,
    "dataset_sha256": "b" * 64,
}


@pytest.fixture(scope="module")
def service(
    make_settings: MakeSettings,
    make_wire: Callable[[], Wire],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    settings = make_settings(tmp_path_factory.mktemp("lost"))
    with Service(settings, make_wire()) as running:
        running.wait_until_assigned()
        yield running


def released(service: Service, elder_id: str, number: int) -> ModelVersion:
    """Release a version that no host has, and whose adapter is nowhere."""
    job = make_job(id=f"{elder_id}_{number}", elder_id=elder_id)
    version = service.app.registry.open_version(job, MADE_OF, utc_now())
    service.app.registry.release(elder_id, version)
    return version


def ask(service: Service, elder_id: str) -> dict[str, object]:
    correlation = uuid4().bytes
    question = {"elder_id": elder_id, "message": "Where were you born?"}
    service.send("chat-requests", question, ("kafka_correlationId", correlation))
    reply: dict[str, object] = json.loads(service.reply("chat-replies", correlation).value or b"")
    return reply


def test_chat_whose_model_is_lost_names_the_job_that_brings_it_back(service: Service) -> None:
    service.answers("LOST", ("Where were you born?", "In Stromness."))
    released(service, "LOST", 1)
    error = ask(service, "LOST")["error"]
    assert isinstance(error, dict) and error["code"] == "model_not_ready"
    (job,) = service.app.ledger.jobs(elder_id="LOST")
    assert job.kind == "form" and job.id in error["message"]
    ended = service.event(
        "train-progress", lambda d: d["job_id"] == job.id and d["status"] == "failed"
    )
    assert (ended["status"], ended["error"]["code"]) == ("failed", "artefact_corrupt")
    # However often the family asks meanwhile, it is not tried again and again.
    again = ask(service, "LOST")["error"]
    assert isinstance(again, dict) and job.id in again["message"]
    assert len(service.app.ledger.jobs(elder_id="LOST")) == 1


def test_rollback_to_a_lost_version_answers_with_its_job(service: Service, tmp_path: Path) -> None:
    elder = "ROLLED"
    service.answers(elder, ("Where were you born?", "In Kirkwall."))
    for number in (1, 2):
        released(service, elder, number)
    command = {"command": "rollback", "elder_id": elder}
    reply = service.ask(command)
    assert reply["result"]["current"] == 2
    (job,) = service.app.ledger.jobs(elder_id=elder)
    assert reply["result"]["job_id"] == job.id
    assert (job.form_version, job.makes_current) == (1, True)
