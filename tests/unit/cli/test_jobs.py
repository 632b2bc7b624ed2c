"""`modelserver jobs`: the old name of a command still answers."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from cli import jobs
from cli.main import app
from schemas.documents import Job
from tests.fakes.jobs import make_job


@pytest.mark.parametrize("name", ["prioritize", "hurry"])
def test_job_is_prioritized_by_the_present_and_by_the_old_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def prioritize(job_id: str) -> Job:
        asked.append(job_id)
        return make_job(id=job_id, urgent=True)

    opened = SimpleNamespace(ledger=SimpleNamespace(prioritize=prioritize))
    monkeypatch.setattr(jobs, "open_app", lambda: nullcontext(opened))
    done = CliRunner().invoke(app, ["jobs", name, "LXM_1", "--json"])
    assert (done.exit_code, asked) == (0, ["LXM_1"])
    assert json.loads(done.stdout)["urgent"] is True


def test_old_name_is_not_listed() -> None:
    output = CliRunner().invoke(app, ["jobs", "--help"]).output
    assert "prioritize" in output
    assert "hurry" not in output
