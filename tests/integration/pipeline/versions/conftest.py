"""A model registry on a real store, and a manager and a host that serve its versions."""

import pytest

from pipeline.storage.mongo import Store
from pipeline.versions.registry import ModelRegistry
from tests.integration.pipeline.versions.versions import Served


@pytest.fixture
def registry(store: Store) -> ModelRegistry:
    return ModelRegistry(store)


@pytest.fixture
def served(registry: ModelRegistry) -> Served:
    return Served(registry)
