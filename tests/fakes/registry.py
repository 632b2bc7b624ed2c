"""A registry of models in memory, for unit tests; tests/integration uses the real one."""

from collections.abc import Collection
from datetime import datetime

from schemas.documents import Deletion, ElderModel, Job, ModelVersion, VersionForm
from schemas.errors import (
    LeaseLost,
    ModelNotReady,
    UnknownVersion,
)
from schemas.identifiers import model_tag


class MemoryRegistry:
    """Keeps elders' models and their versions, with the real registry's fencing."""

    def __init__(self) -> None:
        self._models: dict[str, ElderModel] = {}

    def get(self, elder_id: str) -> ElderModel:
        """Return a model, or raise ModelNotReady."""
        found = self.find(elder_id)
        if found is None:
            raise ModelNotReady
        return found

    def find(self, elder_id: str) -> ElderModel | None:
        """Return a model, or None."""
        return self._models.get(elder_id)

    def open_version(self, job: Job, made_of: dict[str, str], now: datetime) -> ModelVersion:
        """Open the version of a job; raises LeaseLost for a job with an older fence."""
        model = self.find(job.elder_id) or ElderModel(id=job.elder_id, elder_name=job.elder_name)
        known = next((v for v in model.versions if v.job_id == job.id), None)
        if known is not None and known.fence > job.fence:
            raise LeaseLost
        number = known.version if known else model.next_version
        version = ModelVersion.model_validate(
            {
                "version": number,
                "job_id": job.id,
                "fence": job.fence,
                "tag": model_tag(job.elder_id, number),
                "created_at": now,
            }
            | made_of
        )
        others = tuple(v for v in model.versions if v.version != number)
        self._models[job.elder_id] = model.model_copy(
            update={
                "versions": (*others, version),
                "next_version": max(model.next_version, number + 1),
            }
        )
        return version

    def fence_off(self, job: Job) -> ModelVersion | None:
        """Raise the fence of the job's version, if any; return the version if it is released."""
        model = self.find(job.elder_id)
        if model is None:
            return None
        if job.kind == "form":
            is_done = job.command in model.commands
            if not is_done:
                commands = (*model.commands, f"{job.command}/off")
                self._models[job.elder_id] = model.model_copy(update={"commands": commands})
            return model.version(job.form_version or 0) if is_done else None
        versions = tuple(
            v.model_copy(update={"fence": max(v.fence, job.fence)}) if v.job_id == job.id else v
            for v in model.versions
        )
        self._models[job.elder_id] = model.model_copy(update={"versions": versions})
        return next((v for v in versions if v.job_id == job.id and v.ready), None)

    def record_form(self, elder_id: str, number: int, form: VersionForm) -> None:
        """Add a form to a version; raises UnknownVersion."""
        model = self.get(elder_id)
        version = model.version(number)
        if version is None:
            raise UnknownVersion
        others = tuple(v for v in model.versions if v.version != number)
        made = version.model_copy(update={"forms": (*version.forms, form)})
        self._models[elder_id] = model.model_copy(update={"versions": (*others, made)})

    def release(self, elder_id: str, version: ModelVersion) -> None:
        """Make a version ready and current; raises LeaseLost if its fence is outdated."""
        model = self.get(elder_id)
        stored = model.version(version.version)
        if stored is None or stored.fence != version.fence:
            raise LeaseLost
        others = tuple(v for v in model.versions if v.version != version.version)
        ready = version.model_copy(update={"ready": True})
        self._models[elder_id] = model.model_copy(
            update={"versions": (*others, ready), "current": version.version}
        )

    def select(
        self, elder_id: str, number: int, *, seen: int | None = None, request: str | None = None
    ) -> bool:
        """Make a released version current.

        Returns False, and changes nothing, if this request is already done or called off, or if
        the current version is no longer `seen`. Raises UnknownVersion.
        """
        model = self.get(elder_id)
        version = model.version(number)
        if version is None or not version.ready:
            raise UnknownVersion
        is_off = f"{request}/off" in model.commands
        if is_off or request in model.commands or seen not in (None, model.current):
            return False
        commands = (*model.commands, request) if request else model.commands
        update = {"current": number, "commands": commands}
        self._models[elder_id] = model.model_copy(update=update)
        return True

    def note_passing(self, elder_id: str, name: str) -> None:
        """Note a temporary tag on the host."""
        model = self.get(elder_id)
        update = {"passing": (*model.passing, name)}
        self._models[elder_id] = model.model_copy(update=update)

    def drop_passing(self, elder_id: str, name: str) -> None:
        """Remove the note of a temporary tag."""
        model = self.get(elder_id)
        left = tuple(n for n in model.passing if n != name)
        self._models[elder_id] = model.model_copy(update={"passing": left})

    def elders(self) -> list[str]:
        """Return the ids of all elders, sorted."""
        return sorted(self._models)

    def forget(self, elder_id: str, current: int | None, numbers: Collection[int]) -> bool:
        """Remove versions, unless the current version has changed; returns whether it did."""
        model = self._models.get(elder_id)
        if model is None or model.current != current:
            return False
        left = tuple(v for v in model.versions if v.version == current or v.version not in numbers)
        self._models[elder_id] = model.model_copy(update={"versions": left})
        return True

    def forget_forms(self, elder_id: str, current: int | None, numbers: Collection[int]) -> bool:
        """Remove forms, unless the current version has changed; returns whether it did."""
        model = self._models.get(elder_id)
        if model is None or model.current != current:
            return False
        versions = tuple(
            v.model_copy(update={"forms": ()}) if v.version in numbers else v
            for v in model.versions
        )
        self._models[elder_id] = model.model_copy(update={"versions": versions})
        return True

    def retire(self, elder_id: str, tags: Collection[str] = (), request: str | None = None) -> bool:
        """Remove all released versions; False if there is no model or this request is done."""
        model = self.find(elder_id)
        if model is None or (request and model.deleted_by(request) is not None):
            return False
        deletions = model.deletions
        if request is not None:
            deletions = (*deletions, Deletion(request=request, tags=tuple(tags)))
        left = tuple(v for v in model.versions if not v.ready)
        update = {"current": None, "versions": left, "deletions": deletions}
        self._models[elder_id] = model.model_copy(update=update)
        return True
