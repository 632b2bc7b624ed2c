"""One start of llama.cpp: what is asked of it, and what is tried when it fails."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pipeline.hosting.server.adapters import AdapterChoice
from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.residency import Residency
from pipeline.hosting.server.runner import LoadRunner, Runner
from pipeline.hosting.server.store import Store


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be loaded, and for whom."""

    base: str
    embeds: bool
    adapters: tuple[str, ...]
    own: tuple[str, ...]
    """The adapters of whoever has waited longest: without them the start is of no use to her."""
    model: str
    """Who has waited longest; empty: nobody, an adapter has to go."""
    context: int


@dataclass(frozen=True, slots=True)
class Started:
    """A start that succeeded, perhaps without the plan's own adapters."""

    runner: Runner
    refusal: Refusal | None = None
    """Why the plan's own adapters are not loaded: they cannot be, though their base can."""


class Starter:
    """Starts llama.cpp as a plan has it. May be used from any thread."""

    def __init__(
        self,
        store: Store,
        load: LoadRunner,
        residency: Residency,
        adapters: AdapterChoice,
        lock: AbstractContextManager[object],
        *,
        threads: int,
    ) -> None:
        """`lock` guards `adapters`."""
        self._store = store
        self._load_runner = load
        self._residency = residency
        self._adapters = adapters
        self._lock = lock
        self._threads = threads

    def start(self, plan: Plan) -> Started:
        """Load the plan's adapters; else those known to be sound, else its own, else none.

        Where its own alone fail and the base alone does not, they are at fault and nobody else is.

        Raises:
            Refusal: 500, not even the base alone could be loaded.
        """
        tried: dict[tuple[str, ...], Refusal] = {}
        attempt = plan.adapters
        while True:
            try:
                runner = self._load(plan, attempt)
            except Refusal as refusal:
                tried[attempt] = refusal
                with self._lock:
                    sound = self._adapters.only_proven(plan.adapters, plan.own)
                left = [each for each in (sound, plan.own, ()) if each not in tried]
                if not left:
                    raise
                attempt = left[0]
            else:
                return self._judge(plan, tried, runner)

    def _judge(self, plan: Plan, tried: dict[tuple[str, ...], Refusal], runner: Runner) -> Started:
        """Note which adapters are sound, and which a failure is put down to."""
        own_fail = not set(plan.own) <= set(runner.adapters)
        with self._lock:
            self._adapters.note_loaded(runner.adapters)
            if own_fail:
                self._adapters.note_damaged(plan.own)
            else:
                self._adapters.note_failed({d for each in tried for d in each} - set(plan.own))
        return Started(runner, tried[plan.own] if own_fail else None)

    def _load(self, plan: Plan, digests: Sequence[str]) -> Runner:
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
            slots=self._residency.slots,
            threads=self._threads,
        )
