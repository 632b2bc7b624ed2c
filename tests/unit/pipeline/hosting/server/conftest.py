"""A scheduler over a fake llama.cpp."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.pipeline.hosting.server.runners.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    opened = World(tmp_path)
    opened.limit()
    try:
        yield opened
    finally:
        opened.close()
