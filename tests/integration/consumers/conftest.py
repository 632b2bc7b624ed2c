"""The service for the tests of one module: all roles over the embedded servers."""

from collections.abc import Callable, Iterator

import pytest

from tests.integration.conftest import MakeSettings
from tests.integration.service import Service
from tests.integration.wire import Wire


@pytest.fixture(scope="module")
def service(
    make_settings: MakeSettings,
    make_wire: Callable[[], Wire],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """One running service for the tests of a module; each test uses elders of its own."""
    with Service(make_settings(tmp_path_factory.mktemp("service")), make_wire()) as running:
        yield running
