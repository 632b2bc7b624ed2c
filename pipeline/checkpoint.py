"""Checkpoints of one training run: whole or not there, checked by hash, free of pickle."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from tempfile import mkdtemp

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.files import disk_errors, hash_file
from schemas.base import Frozen
from schemas.identifiers import Sha256

PREFIX = "checkpoint-"
KEEP = 2
_TENSORS = "tensors.safetensors"
_STATE = "state.json"


class Position(Frozen):
    """Where a run stands. `identity` says which run: data set, base and parameters."""

    identity: Sha256
    step: int
    loss: float


class _Stored(Frozen):
    position: Position
    tensors_sha256: Sha256


def save(folder: Path, position: Position, tensors: dict[str, Tensor]) -> Path:
    """Write a checkpoint below `folder`, durably, and remove the oldest beyond two."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{PREFIX}{position.step:08d}"
    with disk_errors():
        partial = Path(mkdtemp(dir=folder, prefix=".partial-"))
        try:
            save_file({k: v.contiguous() for k, v in tensors.items()}, partial / _TENSORS)
            stored = _Stored(position=position, tensors_sha256=hash_file(partial / _TENSORS))
            (partial / _STATE).write_text(stored.model_dump_json())
            for file in (partial / _TENSORS, partial / _STATE, partial):
                _sync(file)
            if target.exists():
                shutil.rmtree(target)
            partial.replace(target)
            _sync(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    for old in _checkpoints(folder)[KEEP:]:
        shutil.rmtree(old)
    return target


def load_newest(
    folders: Iterable[Path], identity: str, own: Path
) -> tuple[Position, dict[str, Tensor]] | None:
    """Return the furthest whole checkpoint of this run, or None.

    A changed or half-written one is passed over, and set aside where it lies in `own`: earlier
    attempts' folders are only read.
    """
    found = [c for folder in folders for c in _checkpoints(folder)]
    for checkpoint in sorted(found, key=lambda c: c.name, reverse=True):
        try:
            stored = _Stored.model_validate_json((checkpoint / _STATE).read_text())
            if stored.position.identity != identity:
                continue
            if hash_file(checkpoint / _TENSORS) != stored.tensors_sha256:
                raise ValueError("changed")
            return stored.position, load_file(checkpoint / _TENSORS)
        except (OSError, ValueError):
            if checkpoint.parent == own:
                checkpoint.replace(checkpoint.with_name(f"corrupt-{checkpoint.name}"))
    return None


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
    return sorted(folder.glob(f"{PREFIX}*"), reverse=True) if folder.is_dir() else []


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
