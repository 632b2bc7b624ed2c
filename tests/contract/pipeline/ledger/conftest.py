"""Ledgers for the contract suite.

The suite runs on the fake store and on a real one. The state machine and the simulation in
tests/unit rest on the fake: the suite shows that the fake is no more lenient than the real store.
"""

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
