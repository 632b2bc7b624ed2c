"""One model on disk."""

from typing import Any

from pipeline.hosting.server.conversation import Turn
from schemas.base import Frozen


class Manifest(Frozen):
    """The blobs that a model consists of, by digest, and the fields of its create request."""

    name: str
    digest: str
    modified_at: str
    size: int
    base: str
    adapters: tuple[str, ...]
    parent: str
    template: str
    system: str
    parameters: dict[str, Any]
    messages: tuple[Turn, ...]
    licenses: tuple[str, ...]
    architecture: str
    parameter_size: str
    quantization: str

    @property
    def blobs(self) -> frozenset[str]:
        """All blobs that this model needs."""
        return frozenset((self.base, *self.adapters))
