"""The stores that the contracts are run on: the fake one and an embedded one."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from config.settings import MongoSettings
from embedded.mongodb import MongoDbServer
from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import Store, open_client
from tests.fakes.clock import FalseClock
from tests.fakes.mongo import FakeStore


@pytest.fixture(scope="session")
def mongodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an embedded store."""
    server = MongoDbServer(tmp_path_factory.mktemp("mongodb"))
    with server.process:
        yield server.uri


@pytest.fixture(params=["fake", "real"])
def clock(request: pytest.FixtureRequest) -> FalseClock | None:
    """The fake store's clock, which moves a little at each look; the real one has its own."""
    return FalseClock(tick_ms=1) if request.param == "fake" else None


@pytest.fixture
def store(clock: FalseClock | None, request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty database with its indexes."""
    if clock is not None:
        fake = FakeStore(clock).as_store()
        ensure_indexes(fake, dedup_hours=1)
        yield fake
        return
    mongo = MongoSettings(
        uri=request.getfixturevalue("mongodb"), database=f"test_{uuid4().hex[:12]}"
    )
    client = open_client(mongo)
    ensure_indexes(client[mongo.database], dedup_hours=1)
    yield client[mongo.database]
    client.drop_database(mongo.database)
    client.close()
