"""Indexes the manifests in memory: by name, by base, and by the blobs they need."""

from collections import Counter
from collections.abc import Iterable, Iterator

from pipeline.hosting.server.models.manifest import Manifest
from pipeline.hosting.server.models.names import ModelName


class Catalogue:
    """The models of a store. Not thread-safe."""

    def __init__(self, models: Iterable[Manifest]) -> None:
        self._by_key: dict[str, Manifest] = {}
        # The models of each base are in the order of their last change.
        self._by_base: dict[str, dict[str, Manifest]] = {}
        self._needs: Counter[str] = Counter()
        for model in sorted(models, key=lambda each: each.modified_at):
            self.put(model)

    def find(self, key: str) -> Manifest | None:
        """Return the model with this `ModelName.key`."""
        return self._by_key.get(key)

    def models(self) -> list[Manifest]:
        """Return all models, the most recently changed first."""
        return sorted(self._by_key.values(), key=lambda each: each.modified_at, reverse=True)

    def adapters_of(self, base: str) -> Iterator[str]:
        """Yield the adapters of a base's models, those of the most recently changed model first."""
        seen: set[str] = set()
        for model in reversed(self._by_base.get(base, {}).values()):
            yield from (digest for digest in model.adapters if digest not in seen)
            seen.update(model.adapters)

    def is_needed(self, digest: str) -> bool:
        """Say whether any model needs the blob."""
        return self._needs[digest] > 0

    def put(self, model: Manifest) -> frozenset[str]:
        """Add a model or replace the one of its name; return the blobs no model needs any more."""
        key = ModelName.parse(model.name).key
        before = self._pop(key)
        self._by_key[key] = model
        self._by_base.setdefault(model.base, {})[key] = model
        self._needs.update(model.blobs)
        return self._orphans(before)

    def remove(self, model: Manifest) -> frozenset[str]:
        """Remove a model; return the blobs no model needs any more."""
        return self._orphans(self._pop(ModelName.parse(model.name).key))

    def _pop(self, key: str) -> Manifest | None:
        model = self._by_key.pop(key, None)
        if model is not None:
            of_base = self._by_base[model.base]
            del of_base[key]
            if not of_base:
                del self._by_base[model.base]
            self._needs.subtract(model.blobs)
        return model

    def _orphans(self, model: Manifest | None) -> frozenset[str]:
        blobs = model.blobs if model is not None else frozenset[str]()
        orphans = frozenset(digest for digest in blobs if not self.is_needed(digest))
        for digest in orphans:
            del self._needs[digest]
        return orphans
