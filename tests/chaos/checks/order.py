"""The events of a job come in order, its progress never goes back, and a repeat is the same."""

from collections.abc import Iterable

from tests.chaos.checks.outcomes import (
    data_of,
)
from tests.chaos.evidence import Case


def disordered(case: Case) -> Iterable[str]:
    """Say which of a job's events came late, went back, or differ from their first publication."""
    newest: dict[str, int] = {}
    furthest: dict[str, tuple[int, int]] = {}
    seen: dict[tuple[str, int], bytes | None] = {}
    for record in case.records("train-progress"):
        told = data_of(record)
        job, sequence = told["job_id"], told["sequence"]
        if (job, sequence) in seen:
            if seen[job, sequence] != record.value:
                yield f"job {job}: {sequence} was told in two ways"
            continue
        seen[job, sequence] = record.value
        if sequence < newest.get(job, 0):
            yield f"job {job}: {sequence} came after {newest[job]}"
            continue
        newest[job] = sequence
        how_far = (told["attempt"], told["progress"])
        if how_far < furthest.get(job, (0, 0)):
            yield f"job {job}: from {furthest[job]} back to {how_far} (attempt, progress)"
        furthest[job] = how_far
