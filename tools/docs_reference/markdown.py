"""Markdown: tables, code, and links to other pages of the repository."""

import re
from collections.abc import Sequence
from inspect import cleandoc

_PAGE = re.compile(r"\bdocs/([\w./-]+\.md)")
_FOLDER = "reference/"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table; a `|` in a cell is escaped, and line breaks become spaces."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def code(text: object) -> str:
    """Set text as code; nothing stays nothing."""
    return f"`{text}`" if str(text) else ""


def prose(text: str | None) -> str:
    """Return a docstring's text, with the pages that it names as links."""
    return _PAGE.sub(_link, cleandoc(text or ""))


def paragraphs(text: str | None) -> list[str]:
    """Return a docstring's paragraphs, each on one line."""
    return [" ".join(part.split()) for part in prose(text).split("\n\n") if part.strip()]


def page(*parts: str) -> str:
    """Join a page's parts, with a blank line between them."""
    return "\n\n".join(part for part in parts if part)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _link(found: re.Match[str]) -> str:
    path = found[1]
    target = path.removeprefix(_FOLDER) if path.startswith(_FOLDER) else f"../{path}"
    return f"[{path.removeprefix(_FOLDER)}]({target})"
