"""The limits on what is loaded at once: runners, adapters, slots, context."""

from schemas.base import Frozen

DEFAULT_CONTEXT = 4096
# Decoding is bound by memory bandwidth: a batch with one token of each of several requests takes
# hardly longer than a batch of one.
_SLOTS = 4
NO_CONTEXT_LIMIT = 2**31


class Capacity(Frozen):
    """How much is loaded at once."""

    max_runners: int = 3
    """Runners in memory, embedders included. A runner and its successor count as one."""
    max_adapters: int = 16
    """Adapters loaded with one base. With 1, as in Ollama, a request for another adapter or
    another context size reloads the base."""
    overlaps: bool = True
    """Whether a runner keeps serving while its successor loads. If false, it is closed first and
    new requests wait, as in Ollama. A base of which two copies do not fit into memory is closed
    first in either case."""
    drain_s: float = 120.0
    """How long requests in flight may continue on a runner that has been replaced."""
    slots: int = _SLOTS
    """Requests that one runner serves in parallel."""
    context: int = DEFAULT_CONTEXT
    """Tokens of context that every request gets at least."""
    max_context: int | None = None
    """Tokens of context that a request gets at most, even if it asks for more."""

    def context_limit(self, trained_for: int | None) -> int:
        """Return the most tokens of context that a base may be loaded with.

        Args:
            trained_for: the context that the base was trained for; None if that is not known.
        """
        limits = [limit for limit in (trained_for, self.max_context) if limit]
        return min((NO_CONTEXT_LIMIT, *limits))
