"""Tests that only a real Apache Kafka can pass: collected with `--kafka apache` alone."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if config.option.kafka != "apache" and collection_path.is_relative_to(Path(__file__).parent):
        return True
    return None
