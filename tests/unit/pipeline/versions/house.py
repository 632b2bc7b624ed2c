"""An elder's versions, files and models, for tests of retention."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from config.settings import RetentionSettings
from pipeline.hosting.port import ServedModel
from pipeline.storage.files import hash_file, write_file
from pipeline.versions.inventory import Inventory
from pipeline.versions.retention import Retention
from schemas.documents import ElderModel, ModelVersion
from schemas.identifiers import candidate_tag, current_tag, model_tag
from tests.fakes.hosting import FakeModelHost
from tests.fakes.registry import MemoryRegistry

ELDER = "LXM"
DAY_S = 86_400.0
AT = datetime(2026, 1, 1, tzinfo=UTC)


def sha(number: int) -> str:
    return f"{number:064x}"


def version(number: int, *, ready: bool = True, fence: int = 1, **fields: Any) -> ModelVersion:
    return ModelVersion.model_validate(
        {
            "version": number,
            "job_id": f"{ELDER}_{number}",
            "fence": fence,
            "ready": ready,
            "tag": model_tag(ELDER, number),
            "base_model": "b",
            "method": "lora",
            "recipe_sha256": sha(1),
            "dataset_sha256": sha(100 + number),
            "gguf_sha256": sha(200 + number) if ready else None,
            "created_at": AT,
        }
        | fields
    )


class House:
    """An elder's folders, registry and Ollama after four trainings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = FakeModelHost()
        self.registry = MemoryRegistry()
        self.jobs: dict[str, str] = {}
        self.newest: dict[str, str] = {}
        self.inventory = Inventory(folder / "jsonl", folder / "adapters")
        self.host.ensure_base("base", folder)
        versions = tuple(self._train(ELDER, number) for number in range(1, 5))
        for tag in (*(v.tag for v in versions), current_tag(ELDER), candidate_tag(ELDER, 2, 1)):
            self._create(tag)
        self.registry._models[ELDER] = ElderModel(
            id=ELDER,
            elder_name="李",
            current=4,
            next_version=5,
            versions=versions,
            passing=(candidate_tag(ELDER, 2, 1),),
        )
        self._train("OTHER", 1)
        self._create(model_tag("OTHER", 1))
        write_file(self.attempt(3).parent / "2" / "checkpoint-00000003" / "w", b"left")

    def _create(self, tag: str) -> None:
        definition = ServedModel(form="plain", base="base", system="", template="", stop=())
        self.host.create(tag, definition)

    def attempt(self, number: int, elder: str = ELDER) -> Path:
        return self.folder / "adapters" / elder / f"{elder}_{number}" / "1"

    def _train(self, elder: str, number: int) -> ModelVersion:
        attempt = self.attempt(number, elder)
        gguf = write_file(attempt / "adapter" / "adapter.gguf", f"{elder}{number}".encode())
        write_file(attempt / "checkpoint-00000001" / "w", b"w")
        write_file(attempt / ".partial-x", b"x")
        data = self.folder / "jsonl" / elder
        for suffix in ("jsonl", "manifest.json"):
            write_file(data / f"{sha(100 + number)}.{suffix}", b"{}")
        self.jobs[f"{elder}_{number}"] = "succeeded"
        return version(number, gguf_sha256=gguf)

    def retention(self, *, later_s: float = 2 * DAY_S, versions: int = 1) -> Retention:
        ledger = SimpleNamespace(
            statuses=lambda e: {j: s for j, s in self.jobs.items() if j.startswith(f"{e}_")}
        )
        datasets = SimpleNamespace(
            find=lambda e: {"sha256": n, "elder_name": "李"} if (n := self.newest.get(e)) else None,
            elders=lambda: sorted(self.newest),
        )
        newest = max(p.stat().st_mtime for p in self.folder.rglob("*"))
        return Retention(
            registry=self.registry,  # type: ignore[arg-type]
            ledger=ledger,  # type: ignore[arg-type]
            datasets=datasets,  # type: ignore[arg-type]
            host=self.host,
            inventory=self.inventory,
            settings=RetentionSettings(versions=versions),
            clock=lambda: newest + later_s,
        )

    def state(self) -> tuple[list[int], list[str], list[str]]:
        files = [str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()]
        versions = [v.version for v in self.registry.get(ELDER).versions]
        return versions, sorted(self.host.tags()), sorted(files)

    def is_sound(self) -> bool:
        """Say whether each registered version is whole, and whether the other elder's files are."""
        model = self.registry.get(ELDER)
        tags = set(self.host.tags())
        whole = all(
            v.tag in tags
            and hash_file(self.attempt(v.version) / "adapter" / "adapter.gguf") == v.gguf_sha256
            and (self.folder / "jsonl" / ELDER / f"{v.dataset_sha256}.jsonl").is_file()
            for v in model.versions
        )
        others = self.attempt(1, "OTHER") / "checkpoint-00000001" / "w"
        return (
            whole
            and model.current == 4
            and {current_tag(ELDER), model_tag("OTHER", 1)} <= tags
            and others.is_file()
            and {3, 4} <= {v.version for v in model.versions}
        )
