"""How much of llama.cpp is loaded at once, and what is told of each start."""

from schemas.base import Frozen

DEFAULT_CONTEXT = 4096
# A batch of tokens, one a request, costs hardly more than one alone: it is memory that is slow.
_SLOTS = 4


class Residency(Frozen):
    """How much is loaded at once."""

    max_runners: int = 3
    """Bases, and those that embed; one that is being replaced counts once."""
    max_adapters: int = 16
    """Adapters that one loaded base may hold. 1: as in Ollama, whoever asks with other adapters
    or another context than what is loaded replaces it."""
    overlaps: bool = True
    """Whether a runner answers until its successor is ready; else it is closed first, and
    whoever asks meanwhile waits, as with Ollama. Where a base does not fit into memory twice,
    it is closed first all the same."""
    drain_s: float = 120.0
    """How long requests on a runner that was replaced may still take."""
    slots: int = _SLOTS
    """Requests that one runner works on at once."""
    context: int = DEFAULT_CONTEXT
    """Tokens that a request may at least have."""
    max_context: int | None = None
    """Tokens that a request may at most have; who asks for more gets these."""


class Load(Frozen):
    """A start of llama.cpp, as it is told to whoever watches."""

    base: str
    adapters: int
    seconds: float
    error: str | None = None
    is_down: bool = False
    """Whether nothing of the base could be loaded, so that nobody is answered."""
