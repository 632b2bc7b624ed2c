"""Nothing of a catalogue is missing from its page, and nothing there is without a meaning."""

import re

import pytest
from pydantic import BaseModel

from config.metrics import Metrics
from config.settings import Settings
from schemas import errors
from schemas.errors import FatalError, Interrupted, ModelServerError, RejectError, RetryError
from schemas.exit_codes import ExitCode
from schemas.topics import CATALOGUE, all_topics
from tools.docs_reference.errors import errors_below
from tools.docs_reference.pages import render_pages
from tools.docs_reference.settings import list_settings

PAGES = render_pages()
REACTIONS = {RetryError, RejectError, FatalError, Interrupted}


def rows(page: str, first: str) -> list[list[str]]:
    """The cells of the rows whose first cell is `first`, set as code."""
    lines = [line for line in PAGES[page].splitlines() if line.startswith(f"| `{first}` |")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def all_rows(page: str) -> list[str]:
    return [line for line in PAGES[page].splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("topic", CATALOGUE, ids=lambda t: t.name)
def test_topic_has_a_section_with_direction_and_key(topic: object) -> None:
    page = PAGES["topics.md"]
    name, direction = topic.name, topic.direction  # type: ignore[attr-defined]
    section = page[page.index(f"\n## {name}\n") :].split("\n## ")[1]
    assert f"- direction: {direction}" in section
    assert "- key: " in section
    assert f"`heirloom.{name}.v1`" in section


def test_dead_letter_topics_are_named() -> None:
    for topic in all_topics():
        assert f"`{topic.name}`" in PAGES["topics.md"]


@pytest.mark.parametrize("page", ["topics.md", "settings.md", "metrics.md", "commands.md"])
def test_everything_has_a_meaning(page: str) -> None:
    assert [line for line in all_rows(page) if line.endswith("|  |")] == []


def test_required_fields_are_marked() -> None:
    assert [row[2] for row in rows("topics.md", "elder_name")] == ["no", "**yes**", "no"]
    assert rows("topics.md", "conversation_history[].role")[0][1:3] == [
        "`user`, `assistant`",
        "**yes**",
    ]


def test_bounds_of_overrides_are_told() -> None:
    assert rows("topics.md", "lora.rank")[0][1:4] == ["integer (1 to 256)", "no", "`16`"]


def test_every_setting_has_a_row() -> None:
    names = [s.name for s in list_settings(Settings, ())]
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += [s.name for s in list_settings(field.annotation, (name,))]
    assert len(names) > 60
    for setting in names:
        assert len(rows("settings.md", setting)) == 1, setting


def test_settings_show_their_names_types_and_defaults() -> None:
    assert rows("settings.md", "MONGODB_URI")[0][1:3] == [
        "secret text",
        "`mongodb://127.0.0.1:27017`",
    ]
    assert rows("settings.md", "MODELSERVER_OPS__PORT")[0][1:3] == [
        "integer (0 to 65535)",
        "`9108`",
    ]
    assert len(rows("settings.md", "MODELSERVER_KAFKA__SECURITY__PASSWORD")) == 1


def test_commands_that_are_hidden_are_not_shown() -> None:
    page = PAGES["commands.md"]
    assert "## modelserver jobs prioritize" in page
    assert "hurry" not in page


def test_options_have_all_their_names() -> None:
    page = PAGES["commands.md"]
    assert "`--message, -m`" in page
    assert "modelserver dlt show TOPIC --partition INTEGER --offset INTEGER [OPTIONS]" in page


def test_every_command_shows_an_example() -> None:
    sections = PAGES["commands.md"].split("\n## ")[1:-1]
    assert len(sections) >= 19
    for section in sections:
        assert "\nExample:\n\n```sh\nmodelserver " in section, section


@pytest.mark.parametrize("exit_code", ExitCode)
def test_exit_code_has_a_row(exit_code: ExitCode) -> None:
    assert rows("commands.md", str(int(exit_code)))[0][1] == exit_code.meaning


def test_every_metric_has_a_row_with_its_labels() -> None:
    metrics = Metrics()
    served = {
        m.name + ("_total" if m.type == "counter" else "") for m in metrics.registry.collect()
    }
    shown = {d.name: d for group in metrics.catalogue().values() for d in group}
    assert set(shown) == served
    for name, definition in shown.items():
        assert rows("metrics.md", name)[0][1] == definition.kind
    assert rows("metrics.md", "modelserver_dead_letters_total")[0][2] == "`topic`, `reason`"


@pytest.mark.parametrize(
    "error",
    [error for root in REACTIONS for error in errors_below(root)],
    ids=lambda error: error.code,
)
def test_error_has_a_row_with_meaning_and_remedy(error: type[ModelServerError]) -> None:
    (row,) = rows("errors.md", error.code)
    assert row[1]
    assert row[2] or error in REACTIONS or issubclass(error, Interrupted)


def test_errors_of_the_catalogue_are_all_there() -> None:
    classes = {value for value in vars(errors).values() if isinstance(value, type)}
    shown = {error for root in REACTIONS for error in errors_below(root)}
    assert shown == classes - {ModelServerError}
