"""The registry of versions: what each was made from, and which one is current.

There is one document per elder, so that the current version changes in one write. A version
carries the fence of the worker that makes it; a worker with an older fence cannot release it.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any

import pymongo.collection
from pymongo import ASCENDING
from pymongo.errors import DuplicateKeyError

from pipeline.storage.mongo import DATASETS, MODELS, Document, Store, store_errors
from schemas.documents import ElderModel, Job, ModelVersion, VersionForm
from schemas.errors import ElderIdClash, LeaseLost, ModelNotReady, UnknownVersion
from schemas.identifiers import model_tag

# How many commands are remembered for each elder: a redelivery follows soon, if at all.
_COMMANDS_KEPT = 50
_FORMS_KEPT = 8
_PASSING_KEPT = 50


class ModelRegistry:
    """The `models` collection. Every method raises StoreUnavailable when MongoDB is down."""

    def __init__(self, store: Store) -> None:
        self._models = store[MODELS]

    def get(self, elder_id: str) -> ElderModel:
        """Return an elder's model; raises ModelNotReady if there is none."""
        found = self.find(elder_id)
        if found is None:
            raise ModelNotReady
        return found

    def find(self, elder_id: str) -> ElderModel | None:
        """Return an elder's model, or None."""
        with store_errors():
            document = self._models.find_one({"_id": elder_id})
        return None if document is None else ElderModel.model_validate(document)

    def models(self) -> list[ElderModel]:
        """Return the models that have a current version, by elder id."""
        with store_errors():
            cursor = self._models.find({"current": {"$type": "number"}}).sort("_id", ASCENDING)
            return [ElderModel.model_validate(d) for d in cursor]

    def open_version(self, job: Job, made_of: dict[str, Any], now: datetime) -> ModelVersion:
        """Open a version for a job under its present fence, or reopen the one it has.

        `made_of` holds the fields of ModelVersion that name its inputs. Reopening a released
        version, which Ollama has lost since, makes it unreleased again. Raises LeaseLost when a
        newer fence has it, and ElderIdClash if the elder's id differs from another's in case
        alone.
        """
        with store_errors():
            self._ensure(job)
            model = self.get(job.elder_id)
            known = next((v for v in model.versions if v.job_id == job.id), None)
            number = known.version if known else model.next_version
            version = ModelVersion(
                version=number,
                job_id=job.id,
                fence=job.fence,
                tag=model_tag(job.elder_id, number),
                created_at=now,
                **made_of,
            )
            matched = self._replace(job, version) if known else self._append(job, version)
        if not matched:
            raise LeaseLost
        return version

    def _ensure(self, job: Job) -> None:
        try:
            self._models.update_one(
                {"_id": job.elder_id},
                {
                    "$set": {"elder_name": job.elder_name},
                    "$setOnInsert": {
                        "folded_id": job.elder_id.lower(),
                        "current": None,
                        "next_version": 1,
                        "versions": [],
                    },
                },
                upsert=True,
            )
        except DuplicateKeyError as error:
            if self.find(job.elder_id) is None:
                raise ElderIdClash from error
            # Otherwise another process inserted it at the same moment.

    def _append(self, job: Job, version: ModelVersion) -> bool:
        condition = {
            "_id": job.elder_id,
            "next_version": version.version,
            "versions.job_id": {"$ne": job.id},
        }
        update = {
            "$push": {"versions": version.model_dump()},
            "$set": {"next_version": version.version + 1},
        }
        return self._models.update_one(condition, update).matched_count == 1

    def _replace(self, job: Job, version: ModelVersion) -> bool:
        mine = {"job_id": job.id, "fence": {"$lte": job.fence}}
        condition = {"_id": job.elder_id, "versions": {"$elemMatch": mine}}
        update = {"$set": {"versions.$": version.model_dump()}}
        return self._models.update_one(condition, update).matched_count == 1

    def fence_off(self, job: Job) -> ModelVersion | None:
        """Keep a job's earlier holders from releasing its version; return it if one already did.

        They cannot repeat a release either, since a rollback may have followed it. A form job
        releases nothing; its holders are kept from selecting its version (see `select`).
        """
        if job.kind == "form":
            return self._fence_off_form(job)
        mine = {"job_id": job.id, "fence": {"$lt": job.fence}}
        condition = {"_id": job.elder_id, "versions": {"$elemMatch": mine}}
        with store_errors():
            self._models.update_one(condition, {"$set": {"versions.$.fence": job.fence}})
        model = self.find(job.elder_id)
        versions = model.versions if model is not None else ()
        return next((v for v in versions if v.job_id == job.id and v.ready), None)

    def _fence_off_form(self, job: Job) -> ModelVersion | None:
        """Keep a form job from selecting its version; return the version if it has done so."""
        known = [job.command, _off(job.command)]
        condition: Document = {"_id": job.elder_id, "commands": {"$nin": known}}
        update = {"$push": _command(_off(job.command))}
        with store_errors():
            self._models.update_one(condition, update)
        model = self.find(job.elder_id)
        if model is None or job.command not in model.commands or job.form_version is None:
            return None
        return model.version(job.form_version)

    def record_form(self, elder_id: str, number: int, form: VersionForm) -> None:
        """Add a form to a version, as the one that is served; raises UnknownVersion."""
        condition = {"_id": elder_id, "versions": {"$elemMatch": {"version": number}}}
        pushed = {"versions.$.forms": {"$each": [form.model_dump()], "$slice": -_FORMS_KEPT}}
        with store_errors():
            if self._models.update_one(condition, {"$push": pushed}).matched_count == 0:
                raise UnknownVersion

    def release(self, elder_id: str, version: ModelVersion) -> None:
        """Mark a version ready and make it current; raises LeaseLost when a newer fence has it."""
        mine = {"version": version.version, "job_id": version.job_id, "fence": version.fence}
        condition = {"_id": elder_id, "versions": {"$elemMatch": mine}}
        ready = version.model_copy(update={"ready": True})
        update = {"$set": {"versions.$": ready.model_dump(), "current": version.version}}
        with store_errors():
            if self._models.update_one(condition, update).matched_count == 0:
                raise LeaseLost

    def select(
        self, elder_id: str, number: int, *, seen: int | None = None, request: str | None = None
    ) -> bool:
        """Make a released version current; raises UnknownVersion if no such version is released.

        A `request` is remembered in the same write. Return False, and change nothing, if the
        request is known or was fenced off, or if `seen` is given and is no longer current.
        """
        ready = {"version": number, "ready": True}
        condition: Document = {"_id": elder_id, "versions": {"$elemMatch": ready}}
        update: Document = {"$set": {"current": number}}
        if seen is not None:
            condition["current"] = seen
        if request is not None:
            condition["commands"] = {"$nin": [request, _off(request)]}
            update["$push"] = _command(request)
        with store_errors():
            if self._models.update_one(condition, update).matched_count == 1:
                return True
        model = self.find(elder_id)
        version = model.version(number) if model is not None else None
        if version is None or not version.ready:
            raise UnknownVersion
        return False

    def note_passing(self, elder_id: str, name: str) -> None:
        """Remember a temporary tag (a candidate or a handover) before it is made in Ollama.

        A process that must remove it then needs no list of all models. The newest `_PASSING_KEPT`
        are remembered, which is more than the processes that can work on one elder at once.
        """
        kept = {"passing": {"$each": [name], "$slice": -_PASSING_KEPT}}
        with store_errors():
            self._models.update_one({"_id": elder_id}, {"$push": kept})

    def drop_passing(self, elder_id: str, name: str) -> None:
        """Forget a temporary tag that its maker has removed."""
        with store_errors():
            self._models.update_one({"_id": elder_id}, {"$pull": {"passing": name}})

    def elders(self) -> list[str]:
        """Return the ids of all elders who have, or had, a version."""
        with store_errors():
            return _ids(self._models)

    def forget(self, elder_id: str, current: int | None, numbers: Collection[int]) -> bool:
        """Remove versions from the registry, unless another than `current` is current by now.

        Return False, and change nothing, in that case (a rollback or a release came first). The
        current version is never removed, and version numbers are never reused.
        """
        gone = [number for number in numbers if number != current]
        condition = {"_id": elder_id, "current": current}
        update: Document = {"$pull": {"versions": {"version": {"$in": gone}}}}
        with store_errors():
            return self._models.update_one(condition, update).matched_count == 1

    def forget_forms(self, elder_id: str, current: int | None, numbers: Collection[int]) -> bool:
        """Record that versions have no form any more, unless another is current by now.

        Return False, and stop, if the current version is not `current`.
        """
        for number in numbers:
            condition = {"_id": elder_id, "current": current, "versions.version": number}
            with store_errors():
                none: Document = {"$set": {"versions.$.forms": []}}
                if self._models.update_one(condition, none).matched_count == 0:
                    return False
        return True

    def retire(self, elder_id: str, tags: Collection[str] = (), request: str | None = None) -> bool:
        """Remove all released versions; their numbers are never reused.

        Unreleased versions stay, and become current when their jobs release them. `request` is
        remembered together with `tags`, the tags that it removes. Return False, and change
        nothing, if the request is known already or the elder is unknown.
        """
        condition: Document = {"_id": elder_id}
        update: Document = {"$set": {"current": None}, "$pull": {"versions": {"ready": True}}}
        if request is not None:
            condition["deletions.request"] = {"$ne": request}
            deletion = {"request": request, "tags": list(tags)}
            update["$push"] = {"deletions": {"$each": [deletion], "$slice": -_COMMANDS_KEPT}}
        with store_errors():
            return self._models.update_one(condition, update).matched_count == 1


class DatasetRegistry:
    """The `datasets` collection: the newest data set of each elder. Raises StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._datasets = store[DATASETS]

    def record(self, elder_id: str, fields: Document) -> None:
        """Record an elder's newest data set."""
        with store_errors():
            self._datasets.update_one({"_id": elder_id}, {"$set": fields}, upsert=True)

    def elders(self) -> list[str]:
        """Return the ids of all elders who have, or had, a data set."""
        with store_errors():
            return _ids(self._datasets)

    def find(self, elder_id: str) -> Document | None:
        """Return the recorded fields of an elder's newest data set, or None."""
        with store_errors():
            return self._datasets.find_one({"_id": elder_id})


def _command(request: str) -> Document:
    """Return the `$push` that remembers a command."""
    return {"commands": {"$each": [request], "$slice": -_COMMANDS_KEPT}}


def _off(request: str) -> str:
    """Return the entry of `commands` that forbids carrying a request out from now on."""
    return f"{request}/off"


def _ids(collection: pymongo.collection.Collection[Document]) -> list[str]:
    return [d["_id"] for d in collection.find({}, {"_id": 1}).sort("_id", ASCENDING)]
