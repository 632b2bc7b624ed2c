"""A command's output: tables for people, one JSON value for machines."""

import base64
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Progress and notes go to standard error, results to standard output.
notes = Console(stderr=True, highlight=False)
results = Console(highlight=False)
# Control characters that a terminal obeys and json.dumps does not escape.
_CONTROLS = re.compile("[\x7f-\x9f]")


def print_json(value: Any) -> None:
    """Print one JSON value on one line."""
    text = _CONTROLS.sub(_escape, json.dumps(value, ensure_ascii=False))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; without rows, its title and `none`."""
    if not rows:
        results.print(f"{printable(title)}: none", markup=False)
        return
    table = Table(title=Text(printable(title)), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    results.print(table)


def print_fields(fields: dict[str, Any]) -> None:
    """Print fields, one on each line; nested values as JSON."""
    width = max(len(name) for name in fields)
    for name, value in fields.items():
        shown = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
        text = "" if shown is None else printable(str(shown))
        results.print(f"{name:<{width}}  {text}", markup=False)


def printable(text: str) -> str:
    """Escape control characters, which a terminal would obey: the text may come from others."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def describe_bytes(raw: bytes | None) -> str | dict[str, str] | None:
    """Return bytes as text if they are UTF-8, otherwise as `{"base64": ...}`."""
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
