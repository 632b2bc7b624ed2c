"""One start of llama.cpp: what is asked of it, and what is tried when it fails."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pipeline.hosting.server.adapters import AdapterChoice
from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.rooms import Ticket
from pipeline.hosting.server.runner import Runner


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be loaded, and for whom."""

    base: str
    adapters: tuple[str, ...]
    first: Ticket | None
    """Who has waited longest; None: nobody, an adapter has to go."""
    context: int

    @property
    def own(self) -> tuple[str, ...]:
        """The adapters without which it makes no sense."""
        return self.first.model.adapters if self.first else ()


def start_runner(
    plan: Plan,
    load: Callable[[Sequence[str]], Runner],
    adapters: AdapterChoice,
    lock: AbstractContextManager[object],
) -> Runner:
    """Load the plan's adapters; if that fails those known to be sound, if that fails its own.

    Raises:
        Refusal: 500, not even the last could be loaded.
    """
    tried: list[tuple[str, ...]] = []
    attempt = plan.adapters
    while True:
        tried.append(attempt)
        try:
            runner = load(attempt)
        except Refusal:
            with lock:
                adapters.note_failed(set(attempt) - set(plan.own))
                sound = adapters.only_proven(plan.adapters, plan.own)
            left = [each for each in (sound, plan.own) if each not in tried]
            if not left:
                raise
            attempt = left[0]
        else:
            with lock:
                adapters.note_loaded(attempt)
            return runner
