"""A ledger over the fake store and over a real one; on the fake, waiting moves its false clock."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.ledger.events import Announcer
from pipeline.ledger.ledger import Ledger
from pipeline.storage.mongo import Store
from tests.contract.pipeline.ledger.requests import FAIR_S


@pytest.fixture
def ledger(store: Store) -> Ledger:
    """A ledger whose leases last for the test."""
    return Ledger(store, Announcer(lambda: datetime.now(UTC), "en"), lease_s=60, fair_s=FAIR_S)
