"""What a command prints: tables for people, one JSON value for machines."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

# What people are told while they wait goes to standard error; results go to standard output.
notes = Console(stderr=True, highlight=False)
results = Console(highlight=False)


def print_json(value: Any) -> None:
    """Print one JSON value on one line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; an empty one says so."""
    if not rows:
        results.print(f"{title}: none")
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    results.print(table)


def print_fields(fields: dict[str, Any]) -> None:
    """Print one thing's fields, a line each."""
    width = max(len(name) for name in fields)
    for name, value in fields.items():
        shown = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
        results.print(f"{name:<{width}}  {'' if shown is None else shown}", markup=False)
