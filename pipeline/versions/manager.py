"""The elders' models as people manage them: list, get, delete, roll back."""

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
    """Asks for a version's form to be made again."""

    def request_form(
        self,
        model: ElderModel,
        number: int,
        *,
        makes_current: bool,
        request: str | None = None,
    ) -> Job:
        """Return the job that makes it; raises StoreUnavailable."""

    def requested_form(self, elder_id: str, request: str) -> Job | None:
        """Return the job that a request asked for, if it did."""


class Rollback(Frozen):
    """What came of a rollback: who answers now, and the job that is still to be waited for."""

    model: ElderModel
    job_id: str | None = None


class ModelManager:
    """Keeps Ollama and the registry together (the original API's name)."""

    def __init__(self, registry: ModelRegistry, host: ModelHost, forms: FormRequests) -> None:
        self._registry = registry
        self._host = host
        self._forms = forms

    def list_models(self, filter_afs_only: bool = True) -> list[str]:
        """Return the tags in Ollama: the elders' alone, or all."""
        if not filter_afs_only:
            return sorted(self._host.tags())
        return sorted(tag for tag in self._host.tags(MODEL_PREFIX) if not is_passing(tag))

    def get_model(self, elder_id: str) -> ElderModel:
        """Return an elder's model; raises ModelNotReady where none answers."""
        model = self._registry.get(elder_id)
        if model.serving is None:
            raise ModelNotReady
        return model

    def delete_model(self, elder_id: str, request: str | None = None) -> list[str]:
        """Take an elder's model out of service and out of Ollama; return the removed tags.

        Answers stay: a new training brings the model back, and one that is under way goes on
        and its version answers afterwards. The files go with the next round of retention. A
        `request` that was carried out before deletes nothing that came later. Raises
        ModelNotReady where there is none.
        """
        model = self._registry.find(elder_id)
        removed = model.deleted_by(request) if model is not None else None
        if removed is None:
            versions = model.versions if model is not None else ()
            opened = [v for v in versions if not v.ready]
            free = (tag for tag in self._tags_of(elder_id) if not _is_held(tag, opened))
            removed = tuple(sorted(tag for tag in free if not is_passing(tag)))
            if not removed and len(opened) == len(versions):
                raise ModelNotReady
            # The registry first: nobody is sent to a model that is about to go.
            self._registry.retire(elder_id, removed, request)
        self._sweep(elder_id)
        return list(removed)

    def _sweep(self, elder_id: str) -> None:
        """Remove from Ollama what the registry does not know; safe to repeat."""
        tags = self._tags_of(elder_id)
        # Looked at last: a version is in the registry before its names are in Ollama.
        model = self._registry.find(elder_id)
        versions = model.versions if model is not None else ()
        for tag in tags:
            is_left_to_registry = model is not None and tag == current_tag(elder_id)
            if not is_left_to_registry and not _is_held(tag, versions):
                self._host.delete(tag)
        bring_latest(self._registry, self._host, elder_id)

    def rollback(
        self, elder_id: str, version: int | None = None, request: str | None = None
    ) -> Rollback:
        """Let an earlier version answer again; without a number, the one before the current.

        Where the host does not have it, a job makes its form first, and until that has ended the
        old version answers. A `request` that was carried out before changes nothing more. Raises
        ModelNotReady, or UnknownVersion where there is no such version.
        """
        asked = None if request is None else self._forms.requested_form(elder_id, request)
        if asked is not None:
            return Rollback(model=self._registry.get(elder_id), job_id=asked.id)
        while True:
            model = self._registry.get(elder_id)
            if request is not None and request in model.commands:
                break  # Whoever did it may have died before the next step.
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
            # The host lost it in this moment: retention, or somebody at the host.
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
    """Find the version that is to answer again."""
    if model.serving is None:
        raise ModelNotReady
    target = model.previous if number is None else model.version(number)
    if target is None or not target.ready:
        raise UnknownVersion
    return target


def _is_held(tag: str, versions: Iterable[ModelVersion]) -> bool:
    """Say whether a name is that of one of these versions, or of a candidate for an open one."""
    candidate = read_candidate(tag)
    number = candidate[0] if candidate is not None else None
    return any(v.tag == tag or (v.version == number and not v.ready) for v in versions)
