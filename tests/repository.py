"""Where the repository lies, for tests that start its programs or read its files."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
