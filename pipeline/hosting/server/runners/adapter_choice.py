"""Which adapters of a base are loaded together: those of waiting requests, then the recent ones.

llama.cpp accepts adapters only when it starts, so each load is a choice. A damaged adapter must
not take the other personas down: an adapter that was part of a failed load is suspected, and is
loaded only for its own requests until that has succeeded.
"""

from collections.abc import Iterable, Iterator, Sequence

from pipeline.hosting.server.models.store import Store


class AdapterChoice:
    """Chooses by the adapters' history. The caller holds the scheduler's lock."""

    def __init__(self, store: Store, limit: int) -> None:
        """Load at most `limit` adapters together, but always all of one model."""
        self._store = store
        self._limit = limit
        self._asked_at: dict[str, float] = {}
        self._proven: set[str] = set()
        self._suspected: set[str] = set()

    def note_asked(self, digests: Iterable[str], now: float) -> None:
        """Note that a request needs these adapters."""
        self._asked_at |= dict.fromkeys(digests, now)

    def note_loaded(self, digests: Iterable[str]) -> None:
        """Note that these adapters were loaded: they are proven."""
        self._proven |= set(digests)
        self._suspected -= self._proven

    def note_failed(self, digests: Iterable[str]) -> None:
        """Note that a load with these adapters failed: those not yet proven are suspected."""
        self._suspected |= set(digests) - self._proven

    def note_damaged(self, digests: Iterable[str]) -> None:
        """Note that these adapters are the reason for a failed load, even if proven before."""
        self._proven -= set(digests)
        self._suspected |= set(digests)

    def forget(self, digests: Iterable[str]) -> None:
        """Remove deleted adapters from the history."""
        for digest in digests:
            self._asked_at.pop(digest, None)
            self._proven.discard(digest)
            self._suspected.discard(digest)

    def choose(self, base: str, waiting: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        """Return the adapters to load, at most `limit` unless one request needs more.

        First come the waiting requests' adapters in the order of waiting. The rest of the limit
        is filled with the most recently requested adapters of the base, then with the newest:
        a persona that was just made is likely to be asked soon. With a limit of one, the longest
        waiting request gets exactly what it needs, as in Ollama.

        Args:
            base: digest of the base.
            waiting: the adapters of each waiting request, longest waiting first.
        """
        if self._limit == 1:
            return waiting[0] if waiting else ()
        chosen: dict[str, None] = {}
        for adapters in waiting:
            joined = chosen | dict.fromkeys(adapters)
            if not chosen or len(joined) <= self._limit:
                chosen = joined
        for digest in self._recent(base):
            if len(chosen) >= self._limit:
                break
            chosen.setdefault(digest)
        return tuple(chosen)

    def only_proven(self, chosen: Iterable[str], required: Iterable[str]) -> tuple[str, ...]:
        """Return the proven and the required adapters of a choice that could not be loaded."""
        needed = set(required)
        return tuple(d for d in chosen if d in needed or d in self._proven)

    def _recent(self, base: str) -> Iterator[str]:
        known = sorted(
            self._store.adapters_of(base), key=lambda digest: -self._asked_at.get(digest, 0.0)
        )
        # Lazily: a base may have thousands of adapters, and each check is a system call.
        return (d for d in known if d not in self._suspected and self._store.has_blob(d))
