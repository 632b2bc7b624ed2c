"""Which adapters of a base are loaded together: those waited for, then those asked for last.

llama.cpp takes adapters only when it starts, so each start is a choice. One person's damaged
adapter must not silence the others: what was part of a failed start is left out of the company
until it has been loaded by itself.
"""

from collections.abc import Iterable, Iterator, Sequence

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

    def note_damaged(self, digests: Iterable[str]) -> None:
        """Remember that these alone cannot be loaded, whatever they could before."""
        self._proven -= set(digests)
        self._suspected |= set(digests)

    def forget(self, digests: Iterable[str]) -> None:
        """Remember nothing of these any more."""
        for digest in digests:
            self._asked_at.pop(digest, None)
            self._proven.discard(digest)
            self._suspected.discard(digest)

    def choose(self, base: str, waiting: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        """Return what to load: for those who wait in their order, then as company.

        The company is what was asked for last; of what never was, the newest, as a persona that
        was just made is the likeliest to be asked for. Where one adapter is all there is room
        for, whoever waits longest gets hers, or the base alone, as in Ollama.
        """
        if self._limit == 1:
            return waiting[0] if waiting else ()
        chosen: dict[str, None] = {}
        for adapters in waiting:
            joined = chosen | dict.fromkeys(adapters)
            if not chosen or len(joined) <= self._limit:
                chosen = joined
        for digest in self._company(base):
            if len(chosen) >= self._limit:
                break
            chosen.setdefault(digest)
        return tuple(chosen)

    def only_proven(self, chosen: Iterable[str], own: Iterable[str]) -> tuple[str, ...]:
        """Return of a choice that failed what is worth another try with `own`."""
        needed = set(own)
        return tuple(d for d in chosen if d in needed or d in self._proven)

    def _company(self, base: str) -> Iterator[str]:
        known = sorted(
            self._store.adapters_of(base), key=lambda digest: -self._asked_at.get(digest, 0.0)
        )
        # Whether a file is there is looked at as late as can be: a base may have thousands.
        return (d for d in known if d not in self._suspected and self._store.has_blob(d))
