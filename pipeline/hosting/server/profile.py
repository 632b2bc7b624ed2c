"""Which server this is: an Ollama of some version, or the host role that speaks its API.

What differs between the versions is said here, and nowhere by comparing version numbers. It was
read in Ollama's source and tried on both programs; tests/contract asserts it on each.
"""

from collections.abc import Mapping
from typing import Final, Literal

from schemas.base import Frozen

ProfileName = Literal["ollama-0.34", "ollama-0.32", "llama-server"]
DEFAULT_PROFILE: Final[ProfileName] = "ollama-0.34"
# Ollama's own default without a GPU.
DEFAULT_MAX_RUNNERS: Final = 3


class Profile(Frozen):
    """One kind of server; clients tell them apart by `version`."""

    name: ProfileName
    version: str
    takes_adapters: bool
    """Whether `create` makes a model with an adapter. Those made before are served anyway."""
    max_adapters: int
    """How many adapters one loaded base may hold at once; with 1 another persona reloads it."""
    quantizes_gguf: bool
    """Whether `create` can be asked to quantize a GGUF file."""
    checks_files_first: bool
    """Whether paths, digests and kinds of the files are checked before all else, and named."""
    takes_typical_p: bool
    counts_cached_tokens: bool
    """Whether an answer says how many tokens of its prompt were known already."""
    unloads: bool
    """Whether a model leaves memory when its `keep_alive` is over."""


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
            # One persona's `keep_alive` must not unload the base of all others.
            unloads=False,
        ),
    )
}
