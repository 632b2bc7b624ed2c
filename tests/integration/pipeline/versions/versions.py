"""Jobs and versions for the registry's tests."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.versions.manager import ModelManager
from pipeline.versions.registry import ModelRegistry
from schemas.documents import Job, ModelVersion
from schemas.identifiers import current_tag
from tests.fakes.hosting import FakeModelHost
from tests.fakes.jobs import MemoryForms, make_job

AT = datetime(2026, 1, 1, tzinfo=UTC)
MADE_OF = {
    "base_model": "b",
    "method": "lora",
    "recipe_sha256": "a" * 64,
    "dataset_sha256": "b" * 64,
}


def job(number: int, *, fence: int = 1, elder: str = "LXM") -> Job:
    return make_job(id=f"{elder}_{number}", request_id=str(number), fence=fence, elder_id=elder)


def released(registry: ModelRegistry, number: int) -> ModelVersion:
    version = registry.open_version(job(number), MADE_OF, AT)
    registry.release("LXM", version)
    return version


class Served:
    """Versions in the registry and in a host."""

    def __init__(self, registry: ModelRegistry) -> None:
        self.host = FakeModelHost()
        self.registry = registry
        self.forms = MemoryForms()
        self.manager = ModelManager(registry, self.host, self.forms)
        self.host.ensure_base("base", Path("x"))
        self._copy = self.host.copy
        self._select = registry.select
        self._before: dict[str, Callable[[], object]] = {}
        self.host.copy = self._watched_copy  # type: ignore[method-assign]
        registry.select = self._watched_select  # type: ignore[method-assign]

    @property
    def latest(self) -> str:
        """Whose weights `latest` has."""
        return str(self.host.definition(current_tag("LXM")))

    def before_next_copy_to_latest(self, act: Callable[[], object]) -> None:
        """Do something once somebody is about to copy to `latest`."""
        self._before["copy"] = act

    def before_next_select(self, act: Callable[[], object]) -> None:
        """Do something once somebody is about to change what answers."""
        self._before["select"] = act

    def _watched_copy(self, source: str, target: str) -> None:
        if target == current_tag("LXM"):
            self._before.pop("copy", lambda: None)()
        self._copy(source, target)

    def _watched_select(self, *args: Any, **fields: Any) -> bool:
        self._before.pop("select", lambda: None)()
        return self._select(*args, **fields)

    def version(self, number: int) -> None:
        """Make, release and serve a version; each is a model of its own."""
        made = released(self.registry, number)
        name = f"weights-{number}"
        self.host.ensure_base(name, Path(name))
        self.host.copy(name, made.tag)
        self.host.delete(name)
        self.host.copy(made.tag, current_tag("LXM"))
