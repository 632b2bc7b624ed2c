"""What Ollama serves for each version is what the registry and the disk say of it."""

from collections.abc import Iterable
from typing import Any

from tests.chaos.evidence import Case, Served


def mixed_models(case: Case) -> Iterable[str]:
    """Say which models have another elder's words, or a file that is not their version's."""
    holders: dict[str, str] = {}
    for model in case.models():
        for version in (v for v in model["versions"] if v["ready"]):
            served = case.evidence.served(version["tag"])
            if served is None:
                if not may_be_gone(model, version):
                    yield f"{version['tag']} is not in Ollama"
                continue
            for elder in case.elders:
                if (elder.mark in served.text) != (elder.id == model["_id"]):
                    yield f"{version['tag']}: {elder.id}'s mark is wrong"
            yield from _made_of_another(case, model["_id"], version, served)
            holder = holders.setdefault(served.weights or version["tag"], model["_id"])
            if holder != model["_id"]:
                yield f"{version['tag']} is served from the file of {holder}"


def may_be_gone(model: dict[str, Any], version: dict[str, Any]) -> bool:
    """Say whether retention may have removed a version: it has no form, and is not the current one.

    Retention removes the forms from the registry before it deletes the file.
    """
    return not version["forms"] and version["version"] != model["current"]


def _made_of_another(
    case: Case, elder_id: str, version: dict[str, Any], served: Served
) -> Iterable[str]:
    """Ollama has the file that the registry names, made of the adapter that the registry names.

    The checker merges a merged form once more. So it finds another version's adapter in the file
    even where the registry has the hash of that file.
    """
    tag, adapter = version["tag"], version["gguf_sha256"]
    newest = version["forms"][-1] if version["forms"] else None
    if served.adapters or (newest is not None and newest["form"] != "merged"):
        if served.adapters != {adapter}:
            yield f"{tag} has the adapter {set(served.adapters)}, not {adapter}"
        return
    if newest is not None and served.weights != newest["sha256"]:
        yield f"{tag} is served from {served.weights}, and not from {newest['sha256']}"
    merged = case.evidence.merged(elder_id, adapter)
    if merged is not None and served.weights != merged:
        yield f"{tag} is served from {served.weights}, and its adapter gives {merged}"
