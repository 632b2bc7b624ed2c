"""A workshop for each test."""

from pathlib import Path

import pytest

from tests.unit.pipeline.jobs.workshop import Workshop, second_job


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.fixture
def newer(shop: Workshop) -> Workshop:
    """Two versions, made on a host that merges."""
    shop.host.forms = ("merged", "plain")
    shop.run()
    shop.run(second_job(force_retrain=True))
    return shop
