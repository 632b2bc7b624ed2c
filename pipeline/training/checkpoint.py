"""Checkpoints of one training run: whole or not there, checked by hash, free of pickle."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.storage.files import folder_written_whole, set_aside, verify_folder
from schemas.base import Frozen
from schemas.errors import ArtefactCorrupt
from schemas.identifiers import Sha256

KEEP = 2
_NAME = re.compile(r"checkpoint-\d{8,}")
_TENSORS = "tensors.safetensors"
_POSITION = "position.json"


class Position(Frozen):
    """Where a run stands. `identity` says which run: job, data set, base and parameters."""

    identity: Sha256
    step: int
    loss: float


def save(folder: Path, position: Position, tensors: dict[str, Tensor]) -> Path:
    """Write a checkpoint below `folder`, durably, and remove the oldest beyond two."""
    target = folder / f"checkpoint-{position.step:08d}"
    with folder_written_whole(target) as partial:
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial / _TENSORS)
        (partial / _POSITION).write_text(position.model_dump_json())
    for old in _checkpoints(folder)[KEEP:]:
        shutil.rmtree(old)
    return target


def load_newest(
    folders: Iterable[Path], identity: str, own: Path
) -> tuple[Position, dict[str, Tensor]] | None:
    """Return the furthest whole checkpoint of this run, or None.

    A damaged one or another run's is passed over, and set aside where it lies in `own`: earlier
    attempts' folders are only read, since their worker may still be at them.
    """
    found = [c for folder in folders for c in _checkpoints(folder)]
    for checkpoint in sorted(found, key=lambda c: c.name, reverse=True):
        try:
            return _load(checkpoint, identity)
        except (OSError, ValueError, SafetensorError, ArtefactCorrupt):
            if checkpoint.parent == own:
                set_aside(checkpoint)
    return None


def _load(checkpoint: Path, identity: str) -> tuple[Position, dict[str, Tensor]]:
    verify_folder(checkpoint)
    position = Position.model_validate_json((checkpoint / _POSITION).read_bytes())
    if position.identity != identity:
        raise ArtefactCorrupt(f"{checkpoint.name} belongs to another run")
    return position, load_file(checkpoint / _TENSORS)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten an optimizer's state into named tensors."""
    return {
        f"optimizer.{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put named tensors back into an optimizer."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the furthest first."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    return sorted((p for p in found if p.is_dir() and not p.is_symlink()), reverse=True)
