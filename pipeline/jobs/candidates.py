"""Candidates: the temporary names of versions at a host until they have been evaluated."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.hosting.port import ModelHost
from pipeline.versions.registry import ModelRegistry
from schemas.documents import Job, ModelVersion
from schemas.identifiers import candidate_tag, read_candidate


class Candidates:
    """Names each candidate after its job's fence, and removes those with earlier fences."""

    def __init__(self, registry: ModelRegistry, host: ModelHost) -> None:
        self._registry = registry
        self._host = host

    @contextmanager
    def named(self, job: Job, version: ModelVersion) -> Iterator[str]:
        """Yield the name of a version's candidate; on leaving, delete the model of that name."""
        form_job = job.id if job.kind == "form" or version.job_id != job.id else None
        candidate = candidate_tag(job.elder_id, version.version, job.fence, form_job)
        self._registry.note_passing(job.elder_id, candidate)
        self._remove_earlier(candidate, job.elder_id)
        try:
            yield candidate
        finally:
            self._host.delete(candidate)
            self._registry.drop_passing(job.elder_id, candidate)

    def _remove_earlier(self, candidate: str, elder_id: str) -> None:
        """Delete the candidates of the job's earlier holders: the host itself knows no fences.

        A version's tag is copied from its candidate, so an earlier holder finds nothing to copy.
        Later candidates stay, since this worker may be the one that lost its lease.
        """
        mine = read_candidate(candidate)
        for name in self._registry.get(elder_id).passing:
            found = read_candidate(name)
            if mine is not None and found is not None and found < mine:
                self._host.delete(name)
