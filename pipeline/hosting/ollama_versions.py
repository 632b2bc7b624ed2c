"""Which forms an Ollama of a version makes, and how our own host role names itself."""

import re

from schemas.hosting import Form, HostKind

# What our own host role adds to the version whose API it speaks.
LLAMA_SERVER_SUFFIX = "+llama-server"
# 0.0.0 is what a build reports that was given no number; it says nothing.
_NUMBERS = re.compile(r"v?(?!0\.0\.0)(\d+)\.(\d+)\.(\d+)")
_FIRST_WITHOUT = (0, 34, 1)
WITH_ADAPTERS: tuple[Form, ...] = ("adapter", "merged", "plain")
WITHOUT_ADAPTERS: tuple[Form, ...] = ("merged", "plain")


def forms_of(version: str) -> tuple[Form, ...] | None:
    """Say which forms an Ollama of this version makes, the preferred one first.

    Since 0.34.1 it refuses adapters; every Ollama serves merged models. What comes after a `+`
    says that it is not Ollama itself; our own host role shares one base among its adapters. None
    for a version that is no number.
    """
    if kind_of(version) == "llama-server":
        return ("shared", "plain")
    found = _NUMBERS.match(version)
    if found is None:
        return None
    numbers = tuple(int(number) for number in found.groups())
    return WITH_ADAPTERS if numbers < _FIRST_WITHOUT else WITHOUT_ADAPTERS


def kind_of(version: str) -> HostKind:
    """Say what kind of host reports this version."""
    return "llama-server" if version.endswith(LLAMA_SERVER_SUFFIX) else "ollama"
