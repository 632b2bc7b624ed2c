"""A checkpoint is complete or absent, and a run never gets a damaged one."""

from pathlib import Path

import pytest
import torch

from pipeline.training.checkpoint import (
    Position,
    load_newest,
    optimizer_tensors,
    restore_optimizer,
    save,
)

RUN = "a" * 64


def write(folder: Path, step: int, run: str = RUN) -> Path:
    """Save a checkpoint whose one tensor holds its step."""
    position = Position(identity=run, step=step, loss=0.5)
    return save(folder, position, {"weights": torch.full((3,), float(step))})


def step_of(folder: Path, *earlier: Path, run: str = RUN) -> int | None:
    """Load the furthest checkpoint; return its step, which its tensor must hold too."""
    found = load_newest((folder, *earlier), run, folder)
    if found is None:
        return None
    position, tensors = found
    assert tensors["weights"].tolist() == [float(position.step)] * 3
    return position.step


def test_the_furthest_is_taken_and_two_are_kept(tmp_path: Path) -> None:
    """Older ones are removed, and no partial folder is left."""
    for step in (1, 2, 3):
        write(tmp_path, step)
    assert step_of(tmp_path) == 3
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "no manifest", "manifest cut"])
def test_a_damaged_one_is_set_aside_and_the_older_one_used(tmp_path: Path, damage: str) -> None:
    """Whatever the damage, it is found before the content is used."""
    write(tmp_path, 1)
    newest = write(tmp_path, 2)
    tensors = next(newest.glob("*.safetensors"))
    state = newest / "manifest.json"
    content = tensors.read_bytes()
    match damage:
        case "changed":
            tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "cut":
            tensors.write_bytes(content[:-4])
        case "missing":
            tensors.unlink()
        case "no manifest":
            state.unlink()
        case "manifest cut":
            state.write_text(state.read_text()[:-5])
    assert step_of(tmp_path) == 1
    assert not newest.exists()
    assert any("corrupt" in path.name for path in tmp_path.iterdir())


def test_earlier_attempts_are_read_and_never_written(tmp_path: Path) -> None:
    """A damaged checkpoint in another attempt's folder stays as it is."""
    own, earlier = tmp_path / "own", tmp_path / "earlier"
    write(own, 1)
    write(earlier, 4)
    next(write(earlier, 5).glob("*.safetensors")).write_bytes(b"")
    before = sorted(path.name for path in earlier.rglob("*"))
    assert step_of(own, earlier) == 4
    assert sorted(path.name for path in earlier.rglob("*")) == before


def test_another_runs_checkpoint_is_not_taken(tmp_path: Path) -> None:
    """Its job, data, base or parameters differ; in the run's own folder it is set aside."""
    path = write(tmp_path, 7, run="b" * 64)
    assert step_of(tmp_path) is None
    assert not path.exists() and path.with_name(f"{path.name}.corrupt").exists()


def test_remains_of_a_killed_writer_are_ignored(tmp_path: Path) -> None:
    """A folder that did not get its final name is not a checkpoint."""
    write(tmp_path, 1)
    (tmp_path / ".partial-x").mkdir()
    assert step_of(tmp_path) == 1


def test_a_restored_optimizer_takes_the_same_steps() -> None:
    """AdamW with restored moments continues exactly as the original does."""

    def steps(weight: torch.Tensor, optimizer: torch.optim.Optimizer, count: int) -> None:
        for number in range(count):
            weight.grad = torch.arange(4.0) + number
            optimizer.step()

    first = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.AdamW([first], lr=0.1)
    steps(first, optimizer, 3)
    second = first.detach().clone().requires_grad_()
    restored = torch.optim.AdamW([second], lr=0.1)
    # Copied, as through a file: otherwise both optimizers would share their moments.
    tensors = {name: value.clone() for name, value in optimizer_tensors(optimizer).items()}
    restore_optimizer(restored, tensors)
    steps(first, optimizer, 2)
    steps(second, restored, 2)
    assert torch.equal(first, second)
