"""Creates models in a store through the functions behind `/api/create`."""

import pytest

from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.models.creation import create_model
from pipeline.hosting.server.models.store import Store
from pipeline.hosting.server.profile import PROFILES, Profile
from pipeline.hosting.server.request_bodies import CreateRequest
from tests.unit.pipeline.hosting.server.models.gguf_blobs import BASE, put

OLD, NEW = PROFILES["ollama-0.32"], PROFILES["ollama-0.34"]


def create(store: Store, model: str, profile: Profile, /, **fields: object) -> None:
    """Create a model from the fields of a request."""
    request = CreateRequest.model_validate({"model": model, **fields})
    assert list(create_model(store, profile, request))[-1] == "success"


def create_base(store: Store, model: str = "base") -> str:
    """Create a model without adapter and return its blob's digest."""
    digest = put(store, BASE)
    create(store, model, OLD, files={"base.gguf": digest})
    return digest


def status_of(error: pytest.ExceptionInfo[Refusal]) -> int:
    """Return the status code of a refusal."""
    return error.value.status
