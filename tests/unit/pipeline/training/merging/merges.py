"""Merges of small files, and what they leave."""

from pathlib import Path
from typing import Any

from pipeline.storage.files import hash_file
from pipeline.training.merging.merge import merge
from schemas.hosting import MergeOutcome, MergeSpec
from schemas.training import TrainingProgress


def nothing(_: TrainingProgress) -> None:
    """Ignore progress."""


def never() -> bool:
    return False


def spec_of(base: Path, adapter: Path, work_dir: Path, **fields: Any) -> MergeSpec:
    known = {
        "job_id": "ANN_1",
        "elder_id": "ANN",
        "fence": 1,
        "base_gguf": base,
        "adapter_gguf": adapter,
        "adapter_sha256": hash_file(adapter),
        "quantization": "q8_0",
        "work_dir": work_dir,
    }
    return MergeSpec.model_validate(known | fields)


def merged(base: Path, adapter: Path, work_dir: Path, **fields: Any) -> MergeOutcome:
    spec = spec_of(base, adapter, work_dir, **fields)
    return merge(spec, on_progress=nothing, should_stop=never)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
