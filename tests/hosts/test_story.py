"""From interview answers to chats, on a real model host: each persona in the form it serves."""

from typing import Any

import pytest

from schemas.documents import Job
from schemas.identifiers import model_name
from tests.hosts.family import BOAT, BORN, FIRST_JOB, SWIM, Family
from tests.servers.model_hosts import FoundHost

# Up to five trainings and their evaluations, on two busy cores.
pytestmark = pytest.mark.timeout(1800)
ROUNDS = 2


@pytest.fixture(scope="module")
def ready(family: Family) -> dict[str, dict[str, Any]]:
    """Each elder's `model-ready`, by her id."""
    for elder in family.elders:
        for question, answer in elder.answers.items():
            family.tell(elder, question, answer)
    return family.train(*family.elders)


def forms_of(family: Family, index: int = 0) -> list[str]:
    """The newest form of each version of an elder, oldest version first."""
    versions = family.versions(family.elders[index])
    return [version["forms"][-1]["form"] for version in versions.values()]


def is_form(job: Job) -> bool:
    """Whether a job makes a form again."""
    return job.kind == "form"


def test_each_training_ends_in_a_first_version(
    family: Family, ready: dict[str, dict[str, Any]]
) -> None:
    for elder in family.elders:
        event = ready[elder.elder_id]
        assert (event["version"], event["tag"]) == (1, f"{model_name(elder.elder_id)}:v1")


def test_version_is_served_in_the_form_that_the_host_serves_best(
    family: Family, ready: dict[str, dict[str, Any]], real_host: tuple[FoundHost, str]
) -> None:
    found, _ = real_host
    for index in range(len(family.elders)):
        assert forms_of(family, index) == [found.kind.form]


def test_elders_asked_in_turn_each_answer_as_herself(
    family: Family, ready: dict[str, dict[str, Any]]
) -> None:
    asked = [(q, e) for _ in range(ROUNDS) for q in (BORN, SWIM, BOAT) for e in family.elders]
    replies = [(elder, question, family.ask(elder, question)) for question, elder in asked]
    assert [reply["error"] for *_, reply in replies] == [None] * len(asked)
    told = [(elder.name, family.whose(r["reply"], q), r["reply"]) for elder, q, r in replies]
    assert [one for one in told if set(one[1]) - {one[0]}] == [], "an elder told another's life"
    assert [one for one in told if one[1] != [one[0]]] == [], "a taught answer did not come back"


def test_rollback_brings_the_first_version_back(
    family: Family, ready: dict[str, dict[str, Any]]
) -> None:
    elder = family.elders[0]
    family.tell(elder, FIRST_JOB, "I counted herrings for Mister Gow, six days a week.")
    second = family.train(elder, force=True)[elder.elder_id]
    assert (second["version"], second["previous_version"]) == (2, 1)

    family.command("rollback", elder)
    family.wait_until(
        lambda: family.command("get", elder)["current"] == 1, "the first version answers", 120
    )
    reply = family.ask(elder, BORN)
    assert reply["error"] is None
    assert family.whose(reply["reply"], BORN) == [elder.name]


def test_model_that_the_host_lost_comes_back_without_training(
    family: Family, ready: dict[str, dict[str, Any]]
) -> None:
    """The family is told which job brings it back; it is made of the adapter that was kept."""
    elder = family.elders[1]
    before = family.versions(elder)
    family.lose(elder)
    error = family.ask(elder, BORN)["error"]
    assert error["code"] == "model_not_ready"
    (job,) = [j for j in family.service.app.ledger.jobs(elder_id=elder.elder_id) if is_form(j)]
    assert job.id in error["message"]
    assert "training" not in family.finish(job.id)
    after = family.versions(elder)
    assert {n: v["adapter_sha256"] for n, v in after.items()} == {
        n: v["adapter_sha256"] for n, v in before.items()
    }
    reply = family.ask(elder, BORN)
    assert reply["error"] is None
    assert family.whose(reply["reply"], BORN) == [elder.name]


def test_rollback_to_a_version_that_the_host_lost_names_the_job_that_makes_it(
    family: Family, ready: dict[str, dict[str, Any]]
) -> None:
    """Until it has ended the first version answers, and then the second one does."""
    elder = family.elders[0]
    assert family.service.app.host.delete(f"{model_name(elder.elder_id)}:v2")
    asked = family.command("rollback", elder, version=2)
    assert (asked["current"], asked["job_id"] is None) == (1, False)
    assert "training" not in family.finish(asked["job_id"])
    family.wait_until(
        lambda: family.command("get", elder)["current"] == 2, "the second version answers", 120
    )
    reply = family.ask(elder, BORN)
    assert reply["error"] is None
    assert family.whose(reply["reply"], BORN) == [elder.name]


def test_deleted_persona_leaves_the_host_and_answers_no_more(
    family: Family, ready: dict[str, dict[str, Any]]
) -> None:
    *_, other, elder = family.elders
    tag = f"{model_name(elder.elder_id)}:v1"
    assert tag in family.command("delete", elder)["deleted"]
    assert family.service.app.host.tags(model_name(elder.elder_id)) == []
    assert family.ask(elder, BORN)["error"]["code"] == "model_not_ready"
    reply = family.ask(other, BORN)["reply"]
    assert family.whose(reply, BORN) == [other.name], "the others stay"
