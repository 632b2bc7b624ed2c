"""Loads one runner for a base, and falls back to fewer adapters when that fails."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.models.store import Store
from pipeline.hosting.server.runners.adapter_choice import AdapterChoice
from pipeline.hosting.server.runners.capacity import Capacity
from pipeline.hosting.server.runners.runner import LoadRunner, Runner


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What is to be loaded, and for which request."""

    base: str
    embeds: bool
    adapters: tuple[str, ...]
    """Digests of all adapters to load."""
    required: tuple[str, ...]
    """The adapters of the longest waiting request, which a load without them does not help."""
    model: str
    """The model of the longest waiting request; empty if none waits and an adapter was deleted."""
    context: int


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A load that succeeded, perhaps without the plan's required adapters."""

    runner: Runner
    refusal: Refusal | None = None
    """Why the required adapters are not loaded; None if they are."""


class Loader:
    """Loads runners by plan. May be used from any thread."""

    def __init__(
        self,
        store: Store,
        load: LoadRunner,
        capacity: Capacity,
        adapters: AdapterChoice,
        lock: AbstractContextManager[object],
        *,
        threads: int,
    ) -> None:
        """`lock` guards `adapters`; `threads` is the number that llama.cpp computes with."""
        self._store = store
        self._load_runner = load
        self._capacity = capacity
        self._adapters = adapters
        self._lock = lock
        self._threads = threads

    def load(self, plan: LoadPlan) -> LoadResult:
        """Load the plan's adapters; failing that, fewer of them.

        The attempts in order: all adapters, the proven and the required ones, the required ones
        alone, none. If the base loads only without the required adapters, those are damaged.

        Raises:
            Refusal: 500, the base cannot be loaded even without adapters.
        """
        tried: dict[tuple[str, ...], Refusal] = {}
        attempt = plan.adapters
        while True:
            try:
                runner = self._load(plan, attempt)
            except Refusal as refusal:
                tried[attempt] = refusal
                with self._lock:
                    proven = self._adapters.only_proven(plan.adapters, plan.required)
                left = [each for each in (proven, plan.required, ()) if each not in tried]
                if not left:
                    raise
                attempt = left[0]
            else:
                return self._record(plan, tried, runner)

    def _record(
        self, plan: LoadPlan, tried: dict[tuple[str, ...], Refusal], runner: Runner
    ) -> LoadResult:
        """Record which adapters are proven and which are suspected of the failed attempts."""
        lacks_required = not set(plan.required) <= set(runner.adapters)
        with self._lock:
            self._adapters.note_loaded(runner.adapters)
            if lacks_required:
                self._adapters.note_damaged(plan.required)
            else:
                self._adapters.note_failed({d for each in tried for d in each} - set(plan.required))
        return LoadResult(runner, tried[plan.required] if lacks_required else None)

    def _load(self, plan: LoadPlan, digests: Sequence[str]) -> Runner:
        base = self._store.blob_path(plan.base)
        if plan.embeds:
            return self._load_runner(
                base,
                {},
                context=plan.context,
                slots=1,
                threads=self._threads,
                embeds=True,
                pools_last_token=not self._store.weights(plan.base).has_pooling,
            )
        return self._load_runner(
            base,
            {digest: self._store.blob_path(digest) for digest in digests},
            context=plan.context,
            slots=self._capacity.slots,
            threads=self._threads,
        )
