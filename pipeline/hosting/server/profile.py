"""Which server is imitated: Ollama of a certain version, or the host role.

All differences between versions are flags of `Profile`; no other code compares version numbers.
The values come from Ollama's source and from trying both versions; tests/contract checks them.
"""

from collections.abc import Mapping
from typing import Final, Literal

from schemas.base import Frozen

ProfileName = Literal["ollama-0.34", "ollama-0.32", "llama-server"]
DEFAULT_PROFILE: Final[ProfileName] = "ollama-0.34"
# Ollama's own default without a GPU.
DEFAULT_MAX_RUNNERS: Final = 3


class Profile(Frozen):
    """One kind of server. Clients recognise it by `version`."""

    name: ProfileName
    version: str
    takes_adapters: bool
    """Whether `create` accepts adapters. Models that already have one are served in any case."""
    max_adapters: int
    """Adapters loaded with one base. With 1, a request for another persona reloads the base."""
    quantizes_gguf: bool
    """Whether `create` accepts a request to quantize a GGUF file."""
    checks_files_first: bool
    """Whether `create` checks all files before it begins and names the wrong one."""
    takes_typical_p: bool
    counts_cached_tokens: bool
    """Whether an answer reports how many prompt tokens came from the cache."""
    unloads: bool
    """Whether a model is unloaded when its `keep_alive` has passed."""


PROFILES: Final[Mapping[ProfileName, Profile]] = {
    profile.name: profile
    for profile in (
        Profile(
            name="ollama-0.34",
            version="0.34.4+embedded",
            takes_adapters=False,
            max_adapters=1,
            quantizes_gguf=False,
            checks_files_first=True,
            takes_typical_p=False,
            counts_cached_tokens=True,
            unloads=True,
        ),
        Profile(
            name="ollama-0.32",
            version="0.32.15+embedded",
            takes_adapters=True,
            max_adapters=1,
            quantizes_gguf=True,
            checks_files_first=False,
            takes_typical_p=True,
            counts_cached_tokens=False,
            unloads=True,
        ),
        Profile(
            name="llama-server",
            version="0.34.4+llama-server",
            takes_adapters=True,
            max_adapters=16,
            quantizes_gguf=False,
            checks_files_first=True,
            takes_typical_p=False,
            counts_cached_tokens=True,
            # One persona's `keep_alive` must not unload the base that all personas share.
            unloads=False,
        ),
    )
}
