"""The chat desk, opened for a test and closed after it."""

from collections.abc import Iterator

import pytest

from tests.unit.consumers.handlers.chat_desk import Desk


@pytest.fixture
def desk() -> Iterator[Desk]:
    opened = Desk()
    yield opened
    opened.close()
