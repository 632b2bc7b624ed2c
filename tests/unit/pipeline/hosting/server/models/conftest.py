"""An empty store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.hosting.server.models.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    opened = Store(tmp_path)
    yield opened
    opened.close()
