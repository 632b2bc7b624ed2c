"""An environment without settings."""

import os

import pytest

from config.settings import COMMON_NAMES, ENV_PREFIX


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have settings of their own."""
    for name in list(os.environ):
        if name.startswith(ENV_PREFIX) or name in COMMON_NAMES:
            monkeypatch.delenv(name)
