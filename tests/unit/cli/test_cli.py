"""The command line: exit codes, help, JSON. Nothing here reaches a server."""

import json
import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from cli.main import app, exit_code
from schemas.errors import (
    ConfigurationError,
    InvalidEvent,
    KafkaUnavailable,
    LeaseLost,
    ModelServerError,
    OllamaUnavailable,
    StoreUnavailable,
    TrainingFailed,
    UnknownElder,
)
from tests.repository import REPOSITORY

# Port 9 is discard: nothing listens there.
NOWHERE = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",
    "MONGODB_URI": "mongodb://127.0.0.1:9",
    "OLLAMA_HOST": "http://127.0.0.1:9",
    "MODELSERVER_MONGODB__TIMEOUT_S": "0.2",
}


def modelserver(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MODELSERVER_")}
    return subprocess.run(
        (sys.executable, "-m", "cli.main", *arguments),
        cwd=REPOSITORY,
        env=inherited | NOWHERE | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError(), 78),
        (KafkaUnavailable(), 69),
        (StoreUnavailable(), 69),
        (OllamaUnavailable(), 69),
        (UnknownElder(), 1),
        (TrainingFailed(), 1),
        (LeaseLost(), 1),
        (ModelServerError(), 1),
    ],
)
def test_exit_code_says_which_reaction_is_asked_for(error: ModelServerError, code: int) -> None:
    assert exit_code(error) == code


def test_done_is_zero_and_json_is_all_of_the_output() -> None:
    done = CliRunner().invoke(app, ["asyncapi"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout)["asyncapi"] == "3.0.0"


def test_server_that_cannot_be_reached_is_69_with_its_name() -> None:
    done = modelserver("jobs", "list", "--json")
    assert done.returncode == 69
    assert (done.stdout, "MONGODB_URI" in done.stderr) == ("", True)
    assert "Traceback" not in done.stderr


def test_prune_asks_first_and_reaches_for_the_servers_only_then() -> None:
    asked = modelserver("models", "prune", "--json")
    assert (asked.returncode, asked.stdout.strip()) == (1, "")
    assert "Remove what nobody needs" in asked.stderr
    for option in ("--yes", "--dry-run"):
        assert modelserver("models", "prune", option, "--json").returncode == 69
    refused = modelserver("models", "prune", "../x", "--yes")
    assert (refused.returncode, "ELDER_ID" in refused.stderr) == (1, True)


def test_wrong_setting_is_78_with_name_value_and_expectation() -> None:
    done = modelserver("run", MODELSERVER_WORKER__LEASE_S="soon")
    assert done.returncode == 78
    assert "MODELSERVER_WORKER__LEASE_S" in done.stderr and "soon" in done.stderr
    assert "Traceback" not in done.stderr


def test_elder_id_that_is_none_is_refused_before_anything_is_reached() -> None:
    done = CliRunner().invoke(app, ["train", "../x", "--name", "x"])
    assert isinstance(done.exception, InvalidEvent)
    assert exit_code(done.exception) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "nonsense"],
        ["explode"],
        ["train"],
        ["train", "LXM"],
        ["jobs", "list", "--limit", "0"],
        ["jobs", "list", "--status", "nonsense"],
        ["topics", "apply", "--partitions", "0"],
        ["models", "rollback", "LXM", "--version", "x"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


def all_commands() -> list[list[str]]:
    """Every command's words."""

    def walk(group: typer.core.TyperGroup, words: list[str]) -> list[list[str]]:
        found: list[list[str]] = []
        for name, command in group.commands.items():
            if isinstance(command, typer.core.TyperGroup):
                found += walk(command, [*words, name])
            else:
                found.append([*words, name])
        return found

    root = typer.main.get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    return walk(root, [])


def test_commands_are_those_of_the_design() -> None:
    assert {" ".join(words) for words in all_commands()} >= {
        "run",
        "demo",
        "stack",
        "topics apply",
        "train",
        "chat",
        "models list",
        "models get",
        "models delete",
        "models rollback",
        "jobs list",
        "jobs get",
        "jobs cancel",
        "jobs prioritize",
        "export",
        "dlt list",
        "dlt replay",
        "doctor",
        "asyncapi",
    }


@pytest.mark.parametrize("words", all_commands(), ids=" ".join)
def test_help_says_what_a_command_does(words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize("command", ["run", "stack", "train", "chat"])
def test_help_of_the_common_commands_shows_an_example(command: str) -> None:
    output = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    assert "Example" in output and f"modelserver {command}" in output


def test_no_command_shows_the_help() -> None:
    result = CliRunner().invoke(app, [])
    assert "Usage:" in result.output
    assert result.exit_code in (0, 2)
