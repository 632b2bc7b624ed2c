"""The manifests in memory: by name, by base, and which blobs they need."""

from collections import Counter
from collections.abc import Iterable, Iterator

from pipeline.hosting.server.names import ModelName
from pipeline.hosting.server.shapes import Manifest


class Catalogue:
    """The models of a store. Not for several threads at once."""

    def __init__(self, models: Iterable[Manifest]) -> None:
        self._by_key: dict[str, Manifest] = {}
        # In each base's the one changed last comes last.
        self._by_base: dict[str, dict[str, Manifest]] = {}
        self._needs: Counter[str] = Counter()
        for model in sorted(models, key=lambda each: each.modified_at):
            self.put(model)

    def find(self, key: str) -> Manifest | None:
        """Return the model of a name's key."""
        return self._by_key.get(key)

    def models(self) -> list[Manifest]:
        """Return all models, the one changed last first."""
        return sorted(self._by_key.values(), key=lambda each: each.modified_at, reverse=True)

    def adapters_of(self, base: str) -> Iterator[str]:
        """Yield the adapters of a base's models, those of the model changed last first."""
        seen: set[str] = set()
        for model in reversed(self._by_base.get(base, {}).values()):
            yield from (digest for digest in model.adapters if digest not in seen)
            seen.update(model.adapters)

    def is_needed(self, digest: str) -> bool:
        """Say whether a model needs this blob."""
        return self._needs[digest] > 0

    def put(self, model: Manifest) -> frozenset[str]:
        """Take in a model, in place of one of its name; return the blobs nobody needs now."""
        key = ModelName.parse(model.name).key
        before = self._take_out(key)
        self._by_key[key] = model
        self._by_base.setdefault(model.base, {})[key] = model
        self._needs.update(model.blobs)
        return self._orphans(before)

    def remove(self, model: Manifest) -> frozenset[str]:
        """Take out a model; return the blobs nobody needs now."""
        return self._orphans(self._take_out(ModelName.parse(model.name).key))

    def _take_out(self, key: str) -> Manifest | None:
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
