"""Which llama.cpp slot serves a request, and whether the slot's KV cache may be reused.

A slot caches the keys and values of its last prompt, computed with that request's adapters.
llama.cpp does not compare adapters before it reuses them, so this module does.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_Adapters = tuple[str, ...]


class Slots:
    """A runner's slots. May be used from any thread; a request waits while none is free."""

    def __init__(self, count: int) -> None:
        self._changed = threading.Condition()
        # Free slots and the adapters of their last request, least recently used first.
        self._free: dict[int, _Adapters | None] = dict.fromkeys(range(count))
        self._unknown: set[int] = set()

    @contextmanager
    def take(self, adapters: Sequence[str]) -> Iterator[tuple[int, bool]]:
        """Yield a free slot and whether its cache was computed with exactly these adapters.

        After a request that failed, the cache's state is unknown and it is not reused.
        """
        wanted = tuple(sorted(adapters))
        with self._changed:
            self._changed.wait_for(lambda: self._free)
            slot = self._choose(wanted)
            is_known = self._free.pop(slot) == wanted
        try:
            yield slot, is_known
        except BaseException:
            self.forget(slot)
            raise
        finally:
            with self._changed:
                self._free[slot] = None if slot in self._unknown else wanted
                self._unknown.discard(slot)
                self._changed.notify()

    def forget(self, slot: int) -> None:
        """Mark the cache of a slot in use as unknown."""
        with self._changed:
            self._unknown.add(slot)

    def _choose(self, wanted: _Adapters) -> int:
        known = [slot for slot, last in self._free.items() if last == wanted]
        # The most recent one of its own; otherwise the least recent one, so that other personas'
        # caches live as long as possible.
        return known[-1] if known else next(iter(self._free))
