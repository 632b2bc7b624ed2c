"""A store and a world of fake runners for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.hosting.server.store import Store
from tests.unit.pipeline.hosting.server.runner_world import World


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    opened = Store(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    opened = World(tmp_path)
    try:
        yield opened
    finally:
        opened.close()
