"""docs/reference is made from the catalogues, and says what they say."""

import re
from pathlib import Path

import pytest

from tests.repository import REPOSITORY
from tools.docs_reference import __main__ as program
from tools.docs_reference.pages import render_pages, stale_pages, write_pages

PAGES = render_pages()


def test_pages_in_the_repository_are_those_of_the_catalogues() -> None:
    """Run make docs-reference if this fails."""
    assert stale_pages(REPOSITORY / "docs" / "reference", PAGES) == []


def test_page_that_differs_or_is_missing_is_stale(tmp_path: Path) -> None:
    write_pages(tmp_path / "reference", PAGES)
    assert stale_pages(tmp_path / "reference", PAGES) == []
    (tmp_path / "reference" / "topics.md").write_text("elder\n", encoding="utf-8")
    (tmp_path / "reference" / "errors.md").unlink()
    assert stale_pages(tmp_path / "reference", PAGES) == ["topics.md", "errors.md"]


def test_check_names_the_stale_pages_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "FOLDER", tmp_path)
    assert program.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "docs/reference/settings.md is stale: run make docs-reference" in said
    assert program.main([]) == 0
    assert program.main(["--check"]) == 0


def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--chekc"]) == 2
    assert "usage" in capsys.readouterr().err


def test_pages_depend_on_neither_environment_nor_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVER_LANGUAGE", "en")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "elsewhere:1")
    monkeypatch.setenv("COLUMNS", "20")
    assert render_pages() == PAGES


@pytest.mark.parametrize("name", PAGES)
def test_page_names_no_folder_of_this_machine(name: str) -> None:
    assert str(Path.home()) not in PAGES[name]
    assert str(REPOSITORY) not in PAGES[name]


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_pages(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[name]):
        assert (REPOSITORY / "docs" / "reference" / target).is_file(), target


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_whole(name: str) -> None:
    """Each row has as many cells as the one above it."""
    widths: list[int] = []
    for line in PAGES[name].splitlines():
        if not line.startswith("|"):
            widths = []
            continue
        widths.append(len(re.findall(r"(?<!\\)\|", line)))
        assert widths[-1] == widths[0], line
