"""Lost models: a version that the host lost, or can no longer serve, is made again by a job."""

from pipeline.hosting.port import ModelHost
from pipeline.ledger.ledger import Ledger
from pipeline.versions.registry import ModelRegistry


class LostModels:
    """Requests the jobs that bring back what a chat needs."""

    def __init__(self, registry: ModelRegistry, ledger: Ledger, host: ModelHost) -> None:
        self._registry = registry
        self._ledger = ledger
        self._host = host

    def request_form(self, elder_id: str, is_gone: bool) -> str | None:
        """Request the form of the elder's serving version again; return the job's id.

        Returns None if there is nothing to make again. A model that the host still has
        (`is_gone` is false) but cannot run is made again only if the host, after an upgrade, no
        longer serves models of that form.
        """
        model = self._registry.find(elder_id)
        if model is None or model.serving is None:
            return None
        if not is_gone and model.serving.form in self._host.describe().forms:
            return None
        job = self._ledger.request_form(model, model.serving.version, makes_current=False)
        return job.id
