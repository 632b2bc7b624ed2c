"""What a host's version says about it: which forms of a model it serves, and which kind it is."""

import re

from schemas.hosting import Form, HostKind

# The suffix that the host role appends to the version of Ollama whose API it implements.
LLAMA_SERVER_SUFFIX = "+llama-server"
# Builds without a version number report 0.0.0.
_NUMBERS = re.compile(r"v?(?!0\.0\.0)(\d+)\.(\d+)\.(\d+)")
_FIRST_WITHOUT_ADAPTERS = (0, 34, 1)
WITH_ADAPTERS: tuple[Form, ...] = ("adapter", "merged", "plain")
WITHOUT_ADAPTERS: tuple[Form, ...] = ("merged", "plain")


def forms_of(version: str) -> tuple[Form, ...] | None:
    """Return the forms that a host of this version serves, the preferred one first.

    Ollama refuses adapters since 0.34.1; every version serves merged models. The host role serves
    adapters that share a base. None for a version without a number.
    """
    if kind_of(version) == "llama-server":
        return ("shared", "plain")
    found = _NUMBERS.match(version)
    if found is None:
        return None
    numbers = tuple(int(number) for number in found.groups())
    return WITH_ADAPTERS if numbers < _FIRST_WITHOUT_ADAPTERS else WITHOUT_ADAPTERS


def kind_of(version: str) -> HostKind:
    """Return which kind of host reports this version."""
    return "llama-server" if version.endswith(LLAMA_SERVER_SUFFIX) else "ollama"
