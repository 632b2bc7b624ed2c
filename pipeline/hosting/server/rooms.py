"""One base's place among the runners: what answers, who waits for the next one, what failed."""

import threading
from collections.abc import Callable

from pipeline.hosting.server.backoff import Backoff
from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.instances import Instance
from pipeline.hosting.server.shapes import Manifest

# An instance that answered this long did not die of what it was loaded with.
_STEADY_S = 60.0
_DEATH = "the base's process ended"


class Ticket:
    """One request that waits for an instance; settled once, under the owner's lock."""

    def __init__(self, model: Manifest, context: int) -> None:
        self.model = model
        self.context = context
        self._settled = threading.Event()
        self._instance: Instance | None = None
        self._refusal: Refusal | None = None

    def fits(self, instance: Instance) -> bool:
        """Say whether this instance has the model's adapters and enough context."""
        runner = instance.runner
        return set(self.model.adapters) <= set(runner.adapters) and runner.context >= self.context

    def give(self, instance: Instance, now: float) -> None:
        """Let the request in; it is counted from here on, so nothing can close under it."""
        instance.admit(self.model.name, now)
        self._instance = instance
        self._settled.set()

    def refuse(self, refusal: Refusal) -> None:
        """Tell the request that there will be no instance."""
        self._refusal = refusal
        self._settled.set()

    def wait(self) -> Instance:
        """Return the instance once there is one; called without the lock.

        Raises:
            Refusal: there will be none.
        """
        self._settled.wait()
        if self._instance is None:
            assert self._refusal is not None
            # One of its own: several threads raise it.
            raise Refusal(self._refusal.status, self._refusal.sentence)
        return self._instance


class Room:
    """What there is of one base. Called with the owner's lock held."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.current: Instance | None = None
        self.tickets: list[Ticket] = []
        self.is_starting = False
        self.backoff = Backoff(clock)
        self._clock = clock

    def take_dead(self) -> Instance | None:
        """Return the current instance if it ended by itself; it is not the current one any more.

        Where instances keep dying soon after their start, the next start is put off.
        """
        instance = self.current
        if instance is None:
            return None
        if self._clock() - instance.loaded_at > _STEADY_S:
            self.backoff.note_success(_DEATH)
        fault = instance.runner.fault()
        if fault is None:
            return None
        self.backoff.note_failure(_DEATH, fault)
        self.current = None
        return instance

    def check(self, model: Manifest) -> None:
        """Raise Refusal while a start for this model would only fail again."""
        self.backoff.check(_DEATH)
        self.backoff.check(model.adapters)

    def seat(self, instance: Instance, now: float) -> None:
        """Make an instance the current one, and let in all who waited for it."""
        self.current = instance
        served = [ticket for ticket in self.tickets if ticket.fits(instance)]
        self.tickets = [ticket for ticket in self.tickets if ticket not in served]
        for ticket in served:
            self.backoff.note_success(ticket.model.adapters)
            ticket.give(instance, now)

    def refuse(self, first: Ticket, refusal: Refusal) -> None:
        """Refuse those for whom a start failed; all of them where the base itself may be at fault.

        With an instance that answers, only the adapters can be.
        """
        failed = [
            ticket
            for ticket in self.tickets
            if self.current is None or ticket.model.adapters == first.model.adapters
        ]
        self.tickets = [ticket for ticket in self.tickets if ticket not in failed]
        self.backoff.note_failure(first.model.adapters, refusal.sentence)
        for ticket in failed:
            ticket.refuse(refusal)
