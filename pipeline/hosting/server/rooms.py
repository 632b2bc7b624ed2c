"""One base's place among the runners: what answers, who waits for the next one, what failed."""

import threading
from collections.abc import Callable

from pipeline.hosting.server.backoff import Backoff
from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.instances import Instance

# An instance that answered this long did not die of what it was loaded with.
_STEADY_S = 60.0
# A base that did not fit into memory twice is not tried so again for this long.
_SINGLE_S = 3600.0
_DEATH = "the base's process ended"
_START = "the base cannot be loaded"


class Ticket:
    """One request that waits for an instance; settled once, under the owner's lock."""

    def __init__(
        self, model: str, adapters: tuple[str, ...], context: int, *, is_exact: bool
    ) -> None:
        """Ask for a model; `is_exact`: an instance with more than it needs does not fit it."""
        self.model = model
        self.adapters = adapters
        self.context = context
        self._is_exact = is_exact
        self._settled = threading.Event()
        self._instance: Instance | None = None
        self._refusal: Refusal | None = None

    def fits(self, instance: Instance) -> bool:
        """Say whether this instance has the model's adapters and enough context."""
        loaded, wanted = set(instance.runner.adapters), set(self.adapters)
        if self._is_exact:
            return wanted == loaded and instance.runner.context == self.context
        return wanted <= loaded and instance.runner.context >= self.context

    def give(self, instance: Instance, now: float) -> None:
        """Let the request in; it is counted from here on, so nothing can close under it."""
        instance.admit(self.model, now)
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
    """What there is of one base, to answer or to embed. Called with the owner's lock held."""

    def __init__(self, base: str, clock: Callable[[], float], *, embeds: bool) -> None:
        self.base = base
        self.embeds = embeds
        self.current: Instance | None = None
        self.tickets: list[Ticket] = []
        self.starter: threading.Thread | None = None
        """The thread that starts instances, while there is one."""
        self._backoff = Backoff(clock)
        self._clock = clock
        self._single_until = float("-inf")

    @property
    def is_single(self) -> bool:
        """Whether the base lately did not fit into memory twice."""
        return self._clock() < self._single_until

    def note_single(self) -> None:
        """Note that the base could be loaded only after what was loaded had been closed."""
        self._single_until = self._clock() + _SINGLE_S

    def take_dead(self) -> Instance | None:
        """Return the current instance if it ended by itself; it is not the current one any more.

        Where instances keep dying soon after their start, the next start is put off.
        """
        instance = self.current
        if instance is None:
            return None
        if self._clock() - instance.loaded_at > _STEADY_S:
            self._backoff.note_success(_DEATH)
        fault = instance.runner.fault()
        if fault is None:
            return None
        self._backoff.note_failure(_DEATH, fault)
        self.current = None
        return instance

    def check(self, adapters: tuple[str, ...]) -> None:
        """Raise Refusal while a start with these adapters would only fail again."""
        for what in (_DEATH, _START, adapters):
            self._backoff.check(what)

    def seat(self, instance: Instance, now: float) -> None:
        """Make an instance the current one, and let in all who waited for it."""
        self.current = instance
        self._backoff.note_success(_START)
        served = [ticket for ticket in self.tickets if ticket.fits(instance)]
        self.tickets = [ticket for ticket in self.tickets if ticket not in served]
        for ticket in served:
            self._backoff.note_success(ticket.adapters)
            ticket.give(instance, now)

    def refuse(self, adapters: tuple[str, ...], refusal: Refusal) -> None:
        """Refuse those who want these adapters, which cannot be loaded."""
        self._backoff.note_failure(adapters, refusal.sentence)
        self.dismiss(refusal, lambda ticket: ticket.adapters == adapters)

    def refuse_all(self, refusal: Refusal) -> None:
        """Refuse all who wait: nothing of the base can be loaded."""
        self._backoff.note_failure(_START, refusal.sentence)
        self.dismiss(refusal)

    def dismiss(
        self, refusal: Refusal, whom: Callable[[Ticket], bool] = lambda _ticket: True
    ) -> None:
        """Refuse those of whom that is true, for a reason that says nothing of the base."""
        for ticket in [each for each in self.tickets if whom(each)]:
            self.tickets.remove(ticket)
            ticket.refuse(refusal)
