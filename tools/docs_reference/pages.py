"""All pages by file name; writing them, and telling which are stale."""

from collections.abc import Mapping
from pathlib import Path

from tools.docs_reference.commands import commands_page
from tools.docs_reference.errors import errors_page
from tools.docs_reference.metrics import metrics_page
from tools.docs_reference.settings import settings_page
from tools.docs_reference.topics import topics_page

_NOTICE = "<!-- Made by `make docs-reference` from {source}: edit that, not this. -->"


def render_pages() -> dict[str, str]:
    """Render each page; returns its text by its file name."""
    pages = {
        "topics.md": ("schemas/", topics_page()),
        "settings.md": ("config/settings/ and config/kafka.py", settings_page()),
        "commands.md": ("cli/", commands_page()),
        "metrics.md": ("config/metrics.py", metrics_page()),
        "errors.md": ("schemas/errors/", errors_page()),
    }
    return {
        name: f"{_NOTICE.format(source=source)}\n\n{text.strip()}\n"
        for name, (source, text) in pages.items()
    }


def write_pages(folder: Path, pages: Mapping[str, str]) -> None:
    """Write each page to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")


def stale_pages(folder: Path, pages: Mapping[str, str]) -> list[str]:
    """List the pages that are missing from `folder` or differ from it."""
    return [name for name, text in pages.items() if _read(folder / name) != text]


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
