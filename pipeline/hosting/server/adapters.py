"""Which adapters of a base are loaded together: those waited for, then those asked for last.

llama.cpp takes adapters only when it starts, so each start is a choice. One person's damaged
adapter must not silence the others: what was part of a failed start is left out of the company
until it has been loaded by itself.
"""

from collections.abc import Iterable, Iterator

from pipeline.hosting.server.shapes import Manifest
from pipeline.hosting.server.store import Store


class AdapterChoice:
    """The adapters' history. Called with the owner's lock held."""

    def __init__(self, store: Store, limit: int) -> None:
        """At most `limit` adapters are loaded together, but always all of one model."""
        self._store = store
        self._limit = limit
        self._asked_at: dict[str, float] = {}
        self._proven: set[str] = set()
        self._suspected: set[str] = set()

    def note_asked(self, digests: Iterable[str], now: float) -> None:
        """Remember that these were asked for."""
        self._asked_at |= dict.fromkeys(digests, now)

    def note_loaded(self, digests: Iterable[str]) -> None:
        """Remember that these can be loaded."""
        self._proven |= set(digests)
        self._suspected -= self._proven

    def note_failed(self, digests: Iterable[str]) -> None:
        """Remember that one of these, perhaps, cannot be loaded."""
        self._suspected |= set(digests) - self._proven

    def forget(self, digests: Iterable[str]) -> None:
        """Remember nothing of these any more."""
        for digest in digests:
            self._asked_at.pop(digest, None)
            self._proven.discard(digest)
            self._suspected.discard(digest)

    def choose(self, base: str, waiting: Iterable[Manifest]) -> tuple[str, ...]:
        """Return what to load: for those who wait in their order, then as company.

        The company is what was asked for last; of what never was, the newest, as a persona that
        was just made is the likeliest to be asked for.
        """
        chosen: dict[str, None] = {}
        for model in waiting:
            joined = chosen | dict.fromkeys(model.adapters)
            if not chosen or len(joined) <= self._limit:
                chosen = joined
        company = [d for d in dict.fromkeys(self._known(base)) if d not in self._suspected]
        company.sort(key=lambda digest: -self._asked_at.get(digest, 0.0))
        for digest in company:
            if len(chosen) < self._limit:
                chosen.setdefault(digest)
        return tuple(chosen)

    def only_proven(self, chosen: Iterable[str], own: Iterable[str]) -> tuple[str, ...]:
        """Return of a choice that failed what is worth another try with `own`."""
        needed = set(own)
        return tuple(d for d in chosen if d in needed or d in self._proven)

    def _known(self, base: str) -> Iterator[str]:
        for model in self._store.models():
            if model.base == base:
                yield from (d for d in model.adapters if self._store.has_blob(d))
