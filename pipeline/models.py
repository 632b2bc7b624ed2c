"""The elders' models as people manage them: list, get, delete, roll back."""

from pipeline.model_host import ModelHost
from pipeline.registry import ModelRegistry
from schemas.documents import ElderModel
from schemas.errors import ModelNotReady, UnknownVersion
from schemas.identifiers import MODEL_PREFIX, current_tag, model_name, read_candidate


class ModelManager:
    """Keeps Ollama and the registry together (the original API's name)."""

    def __init__(self, registry: ModelRegistry, host: ModelHost) -> None:
        self._registry = registry
        self._host = host

    def list_models(self, filter_afs_only: bool = True) -> list[str]:
        """Return the tags in Ollama: the elders' alone, or all."""
        tags = self._host.tags()
        if not filter_afs_only:
            return sorted(tags)
        return sorted(t for t in tags if t.startswith(MODEL_PREFIX) and read_candidate(t) is None)

    def get_model(self, elder_id: str) -> ElderModel:
        """Return an elder's model; raises ModelNotReady where none answers."""
        model = self._registry.get(elder_id)
        if model.serving is None:
            raise ModelNotReady
        return model

    def delete_model(self, elder_id: str) -> list[str]:
        """Take an elder's model out of service and out of Ollama; return the removed tags.

        Answers stay: a new training brings the model back. The files of its versions go with
        the next round of retention. Raises ModelNotReady where there is none.
        """
        known = self._registry.find(elder_id)
        tags = self._tags_of(elder_id)
        if not tags and (known is None or not known.versions):
            raise ModelNotReady
        # The registry first: nobody is sent to a model that is about to go.
        self._registry.retire(elder_id)
        for tag in tags:
            self._host.delete(tag)
        return tags

    def rollback(
        self, elder_id: str, version: int | None = None, request: str | None = None
    ) -> ElderModel:
        """Let an earlier version answer again; without a number, the one before the current.

        A `request` that was carried out before changes nothing more. Raises ModelNotReady, or
        UnknownVersion where there is no such version.
        """
        model = self.get_model(elder_id)
        if request is not None and request in model.commands:
            return model
        earlier = [
            v.version for v in model.versions if v.ready and v.version < (model.current or 0)
        ]
        number = version if version is not None else max(earlier, default=None)
        target = model.version(number) if number is not None else None
        if target is None or not target.ready:
            raise UnknownVersion
        self._host.copy(target.tag, current_tag(elder_id))
        try:
            self._registry.select(elder_id, target.version, request)
        except UnknownVersion:
            # Retention took it out in between; `latest` must go on being what answers.
            serving = self.get_model(elder_id).serving
            if serving is not None:
                self._host.copy(serving.tag, current_tag(elder_id))
            raise
        return self.get_model(elder_id)

    def _tags_of(self, elder_id: str) -> list[str]:
        prefix = f"{model_name(elder_id)}:"
        return [tag for tag in self._host.tags() if tag.startswith(prefix)]
