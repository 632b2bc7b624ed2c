"""Checkpoints of one training run: complete or absent, checked by hash, free of pickle.

A checkpoint is a sealed folder `checkpoint-<step>` with the adapter, the optimizer's moments and
the state of torch's random generator as safetensors, and the position as JSON.
"""

import hashlib
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
from schemas.training import TrainingSpec

KEEP = 2
_NAME = re.compile(r"checkpoint-\d{8,}")
_TENSORS = "tensors.safetensors"
_POSITION = "position.json"
_OPTIMIZER = "optimizer."


class Position(Frozen):
    """How far a run is. `identity` names the run; `loss` is that of the last step."""

    identity: Sha256
    step: int
    loss: float


def identity_of(spec: TrainingSpec) -> str:
    """Return the hash that names a run: its elder, job, data set, base and parameters.

    The attempt is left out, so that a later attempt at the same job finds its checkpoints.
    """
    owner = f"{spec.elder_id}\0{spec.job_id}"
    inputs = f"{spec.dataset_sha256}\0{spec.base.key}\0{spec.parameters.model_dump_json()}"
    return hashlib.sha256(f"{owner}\0{inputs}".encode()).hexdigest()


# On the disk ------------------------------------------------------------------------------------


def save(folder: Path, position: Position, tensors: dict[str, Tensor]) -> Path:
    """Write a checkpoint below `folder` durably, and remove all but the newest `KEEP`."""
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
    """Return the furthest sound checkpoint of this run, or None.

    One that is damaged or belongs to another run is skipped. In the folder `own` it is also set
    aside; folders of earlier attempts are only read, since their worker may still write there.
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


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the furthest first."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    return sorted((p for p in found if p.is_dir() and not p.is_symlink()), reverse=True)


# An optimizer's state as named tensors ----------------------------------------------------------


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten an optimizer's state into tensors named `optimizer.<parameter>.<name>`."""
    return {
        f"{_OPTIMIZER}{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put an optimizer's tensors back; others are ignored."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(_OPTIMIZER):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)
