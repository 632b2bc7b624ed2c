"""The whole story as a new user tries it: the demo, and a plain Kafka script beside the service."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from embedded.session import StackSession, running_service
from tests.repository import REPOSITORY

DEMO_LIMIT_S = 1200
SCRIPT_LIMIT_S = 600


@pytest.fixture(scope="module")
def demo() -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "cli.main", "demo", "--json"]
    return subprocess.run(
        argv, capture_output=True, text=True, cwd=REPOSITORY, timeout=DEMO_LIMIT_S, check=False
    )


@pytest.fixture(scope="module")
def report(demo: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert demo.stdout, demo.stderr[-3000:]
    found: dict[str, Any] = json.loads(demo.stdout.splitlines()[-1])
    # CI's log shows what came back, and how long it took.
    print(json.dumps(found, ensure_ascii=False))
    return found


def test_the_demo_ends_well_and_its_last_line_is_the_report(
    demo: subprocess.CompletedProcess[str], report: dict[str, Any]
) -> None:
    assert demo.returncode == 0, demo.stderr[-3000:]
    assert set(report) == {"elders", "seconds"}
    assert set(report["seconds"]) == {"setup", "train", "chat", "total"}


def test_each_elder_has_a_model_of_30_answers_or_more(report: dict[str, Any]) -> None:
    assert len(report["elders"]) >= 2
    for elder in report["elders"]:
        assert elder["examples"] >= 30
        assert elder["model"] == f"afs_elder_{elder['elder_id']}"
        assert elder["tag"] == f"{elder['model']}:v1"
        assert elder["job_id"].startswith(elder["elder_id"])
        assert elder["form"] == "merged"
        assert elder["form_bytes"] > 0


def test_what_was_taught_comes_back(report: dict[str, Any]) -> None:
    for elder in report["elders"]:
        assert elder["recall"]["right"] >= 0.95 * elder["recall"]["asked"], elder


def test_what_was_taught_comes_back_when_asked_in_other_words(report: dict[str, Any]) -> None:
    for elder in report["elders"]:
        assert elder["paraphrase"]["right"] >= 0.6 * elder["paraphrase"]["asked"], elder


def test_no_elder_tells_the_other_elders_life(report: dict[str, Any]) -> None:
    for elder in report["elders"]:
        assert elder["leaks"]["asked"] > 0
        assert elder["leaks"]["leaked"] == 0, elder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run `modelserver stack` and `modelserver run`; return the settings of a client."""
    folder = tmp_path_factory.mktemp("stack")
    with StackSession(folder, "gemma3-270m", print) as session:
        settings = session.environment()
        with running_service(settings, folder / "run.log"):
            yield settings


def test_the_plain_script_of_the_first_hour_makes_a_model_and_chats_with_it(
    service: dict[str, str],
) -> None:
    script = REPOSITORY / "examples" / "first_model.py"
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=os.environ | service,
        timeout=SCRIPT_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip(), "the script prints what the model said"


def test_the_first_hour_shows_the_very_script_that_was_run() -> None:
    script = (REPOSITORY / "examples" / "first_model.py").read_text(encoding="utf-8").strip()
    for page in ("docs/first-hour.md", "docs/zh-CN/first-hour.md"):
        assert script in (REPOSITORY / page).read_text(encoding="utf-8"), page
