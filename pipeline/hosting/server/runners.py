"""Which llama.cpp are loaded: at most a few, one a base, with the adapters that are in use.

llama.cpp takes adapters only when it starts. So the ones known to a base are loaded together,
and one that is new (a persona just trained) makes a new runner, which replaces the old one;
requests under way end on the old one.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.runner import LoadRunner, Runner
from pipeline.hosting.server.shapes import Manifest
from pipeline.hosting.server.store import Store
from schemas.base import Frozen

DEFAULT_CONTEXT = 4096
_EMBED_CONTEXT = 2048
# A batch of tokens, one a request, costs hardly more than one alone: it is memory that is slow.
_SLOTS = 4


class Residency(Frozen):
    """How much may be loaded at once."""

    max_runners: int
    max_adapters: int
    """Of one loaded base; 1: another persona replaces the runner."""


@dataclass
class _Loaded:
    """A runner, for whom it was used last, and when (seconds of the monotonic clock)."""

    runner: Runner
    model: str
    used_at: float


class Runners:
    """The loaded runners. Every method may be called from any thread."""

    def __init__(
        self, store: Store, load: LoadRunner, residency: Residency, *, threads: int
    ) -> None:
        self._store = store
        self._load_runner = load
        self._residency = residency
        self._threads = threads
        self._lock = threading.Lock()
        self._loaded: dict[str, _Loaded] = {}
        self._embedders: dict[str, Runner] = {}
        # Adapter → when it was last asked for; the oldest is left out when there are too many.
        self._adapter_used_at: dict[str, float] = {}

    def acquire(self, model: Manifest, context: int) -> Runner:
        """Return a runner that has the model's base and adapters; load one if need be.

        Raises:
            Refusal: 500, llama.cpp cannot load them.
        """
        now = time.monotonic()
        for digest in model.adapters:
            self._adapter_used_at[digest] = now
        wanted = self._bounded_context(model, context)
        loaded = self._loaded.get(model.base)
        if loaded is None or not self._serves(loaded.runner, model, wanted):
            with self._lock:
                loaded = self._loaded.get(model.base)
                if loaded is None or not self._serves(loaded.runner, model, wanted):
                    loaded = _Loaded(self._load(model, wanted), model.name, now)
                    self._loaded[model.base] = loaded
                    self._drop_least_used()
        loaded.model, loaded.used_at = model.name, now
        return loaded.runner

    def acquire_embedder(self, model: Manifest) -> Runner:
        """Return a runner that embeds with the model's base, without its adapters.

        Raises:
            Refusal: 500, llama.cpp cannot load it.
        """
        with self._lock:
            if model.base not in self._embedders:
                self._embedders[model.base] = self._load_runner(
                    self._store.blob_path(model.base),
                    {},
                    context=self._bounded_context(model, _EMBED_CONTEXT),
                    slots=1,
                    threads=self._threads,
                    embeds=True,
                    pools_last_token=not self._store.weights(model.base).has_pooling,
                )
            return self._embedders[model.base]

    def drop(self, digests: frozenset[str]) -> None:
        """Let go of every runner that holds one of these blobs, in memory too."""
        with self._lock:
            for base, loaded in list(self._loaded.items()):
                if digests & {base, *loaded.runner.adapters}:
                    del self._loaded[base]
            for base in digests & self._embedders.keys():
                del self._embedders[base]
            for digest in digests:
                self._adapter_used_at.pop(digest, None)

    def loaded(self) -> list[tuple[str, int]]:
        """Return (model used last, context) of each runner."""
        return [(each.model, each.runner.context) for each in list(self._loaded.values())]

    def _bounded_context(self, model: Manifest, asked: int) -> int:
        made_for = self._store.weights(model.base).context_length
        return min(asked, made_for) if made_for else asked

    def _load(self, model: Manifest, context: int) -> Runner:
        base = self._store.blob_path(model.base)
        context = max(context, self._bounded_context(model, DEFAULT_CONTEXT))
        adapters = self._choose_adapters(model)

        def load(digests: list[str]) -> Runner:
            return self._load_runner(
                base,
                {digest: self._store.blob_path(digest) for digest in digests},
                context=context,
                slots=_SLOTS,
                threads=self._threads,
            )

        try:
            return load(adapters)
        except Refusal:
            # One person's damaged adapter must not silence the others.
            if len(adapters) == len(model.adapters):
                raise
            return load(list(model.adapters))

    def _choose_adapters(self, model: Manifest) -> list[str]:
        """Return the model's adapters, then the others of its base, last used first."""
        chosen = dict.fromkeys(model.adapters)
        if self._residency.max_adapters == 1:
            return list(chosen)
        others = sorted(self._others(model), key=self._adapter_age)
        for digest in others:
            if len(chosen) < max(self._residency.max_adapters, len(model.adapters)):
                chosen.setdefault(digest)
        return list(chosen)

    def _others(self, model: Manifest) -> Iterator[str]:
        # Newest first: among those never asked for, a fresh one is the likeliest.
        for other in self._store.models():
            if other.base == model.base:
                yield from (d for d in other.adapters if self._is_file(d))

    def _is_file(self, digest: str) -> bool:
        path: Path = self._store.blob_path(digest)
        return path.is_file()

    def _adapter_age(self, digest: str) -> float:
        return -self._adapter_used_at.get(digest, 0.0)

    def _drop_least_used(self) -> None:
        while len(self._loaded) > self._residency.max_runners:
            del self._loaded[min(self._loaded, key=lambda base: self._loaded[base].used_at)]

    def _serves(self, runner: Runner, model: Manifest, context: int) -> bool:
        if self._residency.max_adapters == 1 and runner.adapters != model.adapters:
            return False
        return set(model.adapters) <= set(runner.adapters) and runner.context >= context
