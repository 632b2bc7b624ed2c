"""The operations on elders' models: list, get, delete, roll back."""

from collections.abc import Iterable
from typing import Protocol

from pipeline.hosting.port import ModelHost
from pipeline.versions.latest import bring_latest
from pipeline.versions.registry import ModelRegistry
from schemas.base import Frozen
from schemas.documents import ElderModel, Job, ModelVersion
from schemas.errors import ModelNotReady, UnknownVersion
from schemas.identifiers import (
    MODEL_PREFIX,
    current_tag,
    is_passing,
    model_name,
    read_candidate,
)


class FormRequests(Protocol):
    """Requests jobs that make a version's form again."""

    def request_form(
        self,
        model: ElderModel,
        number: int,
        *,
        makes_current: bool,
        request: str | None = None,
    ) -> Job:
        """Request the form of version `number`, and return its job; raises StoreUnavailable.

        `makes_current` lets the version become current once its form is made. A `request` that
        was made before returns the same job.
        """

    def requested_form(self, elder_id: str, request: str) -> Job | None:
        """Return the form job of an earlier request; None for an unknown request."""


class Rollback(Frozen):
    """A rollback's result: the model, and the job, if any, that must first make a form."""

    model: ElderModel
    job_id: str | None = None


class ModelManager:
    """Changes registry and Ollama together. The class keeps the name of the original API."""

    def __init__(self, registry: ModelRegistry, host: ModelHost, forms: FormRequests) -> None:
        self._registry = registry
        self._host = host
        self._forms = forms

    def list_models(self, filter_afs_only: bool = True) -> list[str]:
        """Return the tags in Ollama, sorted: by default only those of elders' versions."""
        if not filter_afs_only:
            return sorted(self._host.tags())
        return sorted(tag for tag in self._host.tags(MODEL_PREFIX) if not is_passing(tag))

    def get_model(self, elder_id: str) -> ElderModel:
        """Return an elder's model; raises ModelNotReady without a current version."""
        model = self._registry.get(elder_id)
        if model.serving is None:
            raise ModelNotReady
        return model

    def delete_model(self, elder_id: str, request: str | None = None) -> list[str]:
        """Delete an elder's released versions from registry and Ollama; return the removed tags.

        The elder's answers stay, so a new training brings the model back. A training that is
        running goes on, and its version becomes current. Files are removed by the next round of
        retention. Repeating a `request` deletes nothing that was released since. Raises
        ModelNotReady if there is nothing to delete.
        """
        model = self._registry.find(elder_id)
        removed = model.deleted_by(request) if model is not None else None
        if removed is None:
            versions = model.versions if model is not None else ()
            unreleased = [v for v in versions if not v.ready]
            unused = (t for t in self._tags_of(elder_id) if not _belongs_to(t, unreleased))
            removed = tuple(sorted(tag for tag in unused if not is_passing(tag)))
            if not removed and len(unreleased) == len(versions):
                raise ModelNotReady
            # The registry first, so that no request is sent to a model that is about to be deleted.
            self._registry.retire(elder_id, removed, request)
        self._sweep(elder_id)
        return list(removed)

    def _sweep(self, elder_id: str) -> None:
        """Delete from Ollama what the registry does not know; safe to repeat."""
        tags = self._tags_of(elder_id)
        # Read last: a version is in the registry before its tags are in Ollama.
        model = self._registry.find(elder_id)
        versions = model.versions if model is not None else ()
        for tag in tags:
            is_left_to_bring_latest = model is not None and tag == current_tag(elder_id)
            if not is_left_to_bring_latest and not _belongs_to(tag, versions):
                self._host.delete(tag)
        bring_latest(self._registry, self._host, elder_id)

    def rollback(
        self, elder_id: str, version: int | None = None, request: str | None = None
    ) -> Rollback:
        """Make an earlier version current again; without a number, the one before the current.

        If the host lacks it, a job makes its form first, and until that job has ended the
        present version stays current. Repeating a `request` changes nothing. Raises ModelNotReady
        without a current version, and UnknownVersion if there is no such released version.
        """
        asked = None if request is None else self._forms.requested_form(elder_id, request)
        if asked is not None:
            return Rollback(model=self._registry.get(elder_id), job_id=asked.id)
        while True:
            model = self._registry.get(elder_id)
            if request is not None and request in model.commands:
                break  # It was done, perhaps by a process that died before the next step.
            target = _earlier(model, version)
            if not self._host.has(target.tag):
                job = self._forms.request_form(
                    model, target.version, makes_current=True, request=request
                )
                return Rollback(model=model, job_id=job.id)
            number = target.version
            if self._registry.select(elder_id, number, seen=model.current, request=request):
                break
        return self._after_rollback(elder_id)

    def _after_rollback(self, elder_id: str) -> Rollback:
        try:
            bring_latest(self._registry, self._host, elder_id)
        except ModelNotReady:
            # Retention, or an operator at the host, has removed the version a moment ago.
            model = self._registry.get(elder_id)
            if model.serving is None:
                raise
            number = model.serving.version
            job = self._forms.request_form(model, number, makes_current=False)
            return Rollback(model=model, job_id=job.id)
        return Rollback(model=self._registry.get(elder_id))

    def _tags_of(self, elder_id: str) -> list[str]:
        return self._host.tags(f"{model_name(elder_id)}:")


def _earlier(model: ElderModel, number: int | None) -> ModelVersion:
    """Return the released version to go back to; None means the one before the current."""
    if model.serving is None:
        raise ModelNotReady
    target = model.previous if number is None else model.version(number)
    if target is None or not target.ready:
        raise UnknownVersion
    return target


def _belongs_to(tag: str, versions: Iterable[ModelVersion]) -> bool:
    """Say whether a tag is one of these versions', or a candidate of an unreleased one."""
    candidate = read_candidate(tag)
    number = candidate[0] if candidate is not None else None
    return any(v.tag == tag or (v.version == number and not v.ready) for v in versions)
