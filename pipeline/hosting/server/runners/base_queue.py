"""One base: the instance that serves it, the requests that wait, and its recent failures."""

import threading
from collections.abc import Callable

from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.runners.instance import Instance
from pipeline.hosting.server.runners.load_backoff import LoadBackoff
from pipeline.hosting.server.runners.pending_request import PendingRequest

# A crash this long after the load is not blamed on what was loaded.
_STABLE_AFTER_S = 60.0
# How long a base is reloaded without overlap after two copies of it did not fit into memory.
_NO_OVERLAP_S = 3600.0
_CRASH = "the base's process ended"
_LOAD = "the base cannot be loaded"


class BaseQueue:
    """One base for one use, completion or embedding. The caller holds the scheduler's lock."""

    def __init__(self, base: str, clock: Callable[[], float], *, embeds: bool) -> None:
        self.base = base
        self.embeds = embeds
        self.current: Instance | None = None
        """The instance that admits requests."""
        self.pending: list[PendingRequest] = []
        self.load_thread: threading.Thread | None = None
        """The thread that loads instances for this queue, while there is one."""
        self._backoff = LoadBackoff(clock)
        self._clock = clock
        self._no_overlap_until = float("-inf")

    @property
    def forbids_overlap(self) -> bool:
        """Whether two copies of the base recently did not fit into memory."""
        return self._clock() < self._no_overlap_until

    def note_overlap_failure(self) -> None:
        """Note that the base could be loaded only after its predecessor had been closed."""
        self._no_overlap_until = self._clock() + _NO_OVERLAP_S

    def remove_crashed(self) -> Instance | None:
        """Return the current instance if its process has ended; it is no longer current.

        Crashes soon after a load count for the backoff.
        """
        instance = self.current
        if instance is None:
            return None
        if self._clock() - instance.loaded_at > _STABLE_AFTER_S:
            self._backoff.note_success(_CRASH)
        fault = instance.runner.fault()
        if fault is None:
            return None
        self._backoff.note_failure(_CRASH, fault)
        self.current = None
        return instance

    def check_backoff(self, adapters: tuple[str, ...]) -> None:
        """Raise Refusal while the backoff forbids a load with these adapters."""
        for key in (_CRASH, _LOAD, adapters):
            self._backoff.check(key)

    def serve_from(self, instance: Instance, now: float) -> None:
        """Make an instance the current one and admit the waiting requests that fit it."""
        self.current = instance
        self._backoff.note_success(_LOAD)
        admitted = [request for request in self.pending if request.fits(instance)]
        self.pending = [request for request in self.pending if request not in admitted]
        for request in admitted:
            self._backoff.note_success(request.adapters)
            request.grant(instance, now)

    def fail_adapters(self, adapters: tuple[str, ...], refusal: Refusal) -> None:
        """Refuse the waiting requests for adapters that cannot be loaded."""
        self._backoff.note_failure(adapters, refusal.message)
        self.refuse(refusal, lambda request: request.adapters == adapters)

    def fail_base(self, refusal: Refusal) -> None:
        """Refuse all waiting requests: the base cannot be loaded, even without adapters."""
        self._backoff.note_failure(_LOAD, refusal.message)
        self.refuse(refusal)

    def refuse(
        self,
        refusal: Refusal,
        matches: Callable[[PendingRequest], bool] = lambda _request: True,
    ) -> None:
        """Refuse the matching requests for a reason that does not count for the backoff."""
        for request in [each for each in self.pending if matches(each)]:
            self.pending.remove(request)
            request.refuse(refusal)
