"""The current version of each elder is the right one, `latest` is it, and its files are whole."""

import hashlib
from collections.abc import Iterable
from typing import Any

from schemas.identifiers import current_tag, is_passing, model_name
from tests.chaos.checks.outcomes import (
    rollbacks,
)
from tests.chaos.evidence import Case


def unserved(case: Case) -> Iterable[str]:
    """Say whose current version is not what `latest`, the files and the replies say."""
    models = {model["_id"]: model for model in case.models()}
    digests = case.evidence.tags()
    served = {job["elder_id"] for job in case.jobs() if job["status"] == "succeeded"}
    for elder_id in sorted(served):
        model = models.get(elder_id)
        released = [v["version"] for v in model["versions"] if v["ready"]] if model else []
        if model is None or model["current"] not in released:
            yield f"{elder_id}: of {released} none answers"
            continue
        current = next(v for v in model["versions"] if v["version"] == model["current"])
        yield from _wrong_version(case, elder_id, current["version"], released)
        latest = digests.get(current_tag(elder_id))
        if latest is None or latest != digests.get(current["tag"]):
            yield f"{elder_id}: latest is {latest}, {current['tag']} {digests.get(current['tag'])}"
        yield from _damaged(case, elder_id, current)


def _wrong_version(case: Case, elder_id: str, current: int, released: list[int]) -> Iterable[str]:
    """The newest version answers, or the one to which a rollback went."""
    elder = next(elder for elder in case.elders if elder.id == elder_id)
    rolled_back = rollbacks(case, elder)
    if None in rolled_back and len(released) > 1:
        yield f"{elder_id}: a rollback was refused, although {released} are there"
    wanted = rolled_back - {None} or {max(released)}
    if current not in wanted:
        names = " or ".join(sorted(str(version) for version in wanted))
        yield f"{elder_id}: version {current} answers, and not {names}"


def _damaged(case: Case, elder_id: str, current: dict[str, Any]) -> Iterable[str]:
    """Data set and adapter have the hashes that the registry says."""
    jsonl = case.evidence.datasets(elder_id).get(current["dataset_sha256"], b"")
    if hashlib.sha256(jsonl).hexdigest() != current["dataset_sha256"]:
        yield f"{elder_id}: the data set of {current['tag']} is not whole"
    found, wanted = case.evidence.adapters(elder_id), current["gguf_sha256"]
    if wanted not in found:
        yield f"{elder_id}: the adapter of {current['tag']} is {found}, not {wanted}"


def left(case: Case) -> Iterable[str]:
    """Say which temporary tags are in Ollama.

    A tag may be in use at the moment of a look, so a run waits until none is left. One that comes
    later is no fault: a process that wakes up late moves `latest` once more, through such a tag.
    """
    ours = tuple(f"{model_name(elder.id)}:" for elder in case.elders)
    for tag in case.evidence.tags():
        if tag.startswith(ours) and is_passing(tag):
            yield f"left in Ollama: {tag}"
