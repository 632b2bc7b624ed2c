"""Which of llama.cpp's slots a request is worked on, and whether it may go on from what is there.

A slot remembers the keys and values of its last prompt. They were computed with that request's
adapters, and llama.cpp does not look at that; so they are used again for the same adapters only.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_Adapters = tuple[str, ...]


class Slots:
    """A runner's slots. May be used from any thread; who finds none free waits."""

    def __init__(self, count: int) -> None:
        self._changed = threading.Condition()
        # Free slots, the one used longest ago first, with the adapters of the last request.
        self._free: dict[int, _Adapters | None] = dict.fromkeys(range(count))
        self._unsure: set[int] = set()

    @contextmanager
    def take(self, adapters: Sequence[str]) -> Iterator[tuple[int, bool]]:
        """Give a slot, and whether its last request had these very adapters.

        A request that fails may not have reached llama.cpp: what the slot holds is not known then.
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
                self._free[slot] = None if slot in self._unsure else wanted
                self._unsure.discard(slot)
                self._changed.notify()

    def forget(self, slot: int) -> None:
        """Say, while it is taken, that nobody knows what the slot will hold."""
        with self._changed:
            self._unsure.add(slot)

    def _choose(self, wanted: _Adapters) -> int:
        known = [slot for slot, last in self._free.items() if last == wanted]
        # The newest of its own, else the oldest: another persona's stay as long as they can.
        return known[-1] if known else next(iter(self._free))
