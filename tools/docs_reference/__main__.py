"""`python -m tools.docs_reference [--check]`: write the pages, or fail if one is stale."""

import sys
from pathlib import Path

from tools.docs_reference.pages import render_pages, stale_pages, write_pages

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"


def main(arguments: list[str]) -> int:
    """Return the exit code: 1 for a stale page, 2 for wrong usage."""
    if arguments == ["--check"]:
        stale = stale_pages(FOLDER, render_pages())
        for name in stale:
            print(f"docs/reference/{name} is stale: run make docs-reference", file=sys.stderr)
        return 1 if stale else 0
    if arguments:
        print("usage: python -m tools.docs_reference [--check]", file=sys.stderr)
        return 2
    write_pages(FOLDER, render_pages())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
