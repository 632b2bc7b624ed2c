"""One request that waits for an instance that can serve it."""

import threading

from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.runners.instance import Instance


class PendingRequest:
    """Settled exactly once, by `grant` or `refuse`, with the scheduler's lock held."""

    def __init__(
        self, model: str, adapters: tuple[str, ...], context: int, *, is_exact: bool
    ) -> None:
        """Describe what the request needs.

        Args:
            model: the model's name.
            adapters: digests of the model's adapters.
            context: tokens of context.
            is_exact: whether an instance with further adapters or a larger context is unsuitable.
        """
        self.model = model
        self.adapters = adapters
        self.context = context
        self._is_exact = is_exact
        self._settled = threading.Event()
        self._instance: Instance | None = None
        self._refusal: Refusal | None = None

    def fits(self, instance: Instance) -> bool:
        """Say whether the instance has the model's adapters and enough context."""
        loaded, wanted = set(instance.runner.adapters), set(self.adapters)
        if self._is_exact:
            return wanted == loaded and instance.runner.context == self.context
        return wanted <= loaded and instance.runner.context >= self.context

    def grant(self, instance: Instance, now: float) -> None:
        """Admit the request; from here on it counts as in flight and keeps the instance open."""
        instance.admit(self.model, now)
        self._instance = instance
        self._settled.set()

    def refuse(self, refusal: Refusal) -> None:
        """Settle the request with an error."""
        self._refusal = refusal
        self._settled.set()

    def wait(self) -> Instance:
        """Block until the request is settled and return its instance; called without the lock.

        Raises:
            Refusal: the request was refused.
        """
        self._settled.wait()
        if self._instance is None:
            assert self._refusal is not None
            # A new exception each time: several threads may raise the same refusal.
            raise Refusal(self._refusal.status, self._refusal.message)
        return self._instance
