"""A converted base model is checked by its hashes, and converted again where it was damaged."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from config.training import load_training_config
from pipeline.base_model import load_base
from pipeline.files import MANIFEST
from schemas.training import BaseModelSpec
from tests.chaos.tiny_base import KEY, make_tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelSpec:
    folder = tmp_path_factory.mktemp("bases")
    return load_training_config(make_tiny_base(folder)).base(KEY, folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def change(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 0x40]))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", MANIFEST])
@pytest.mark.parametrize("damage", [cut, change])
def test_damaged_base_is_set_aside_and_converted_again(
    base: BaseModelSpec, name: str, damage: Callable[[Path], None]
) -> None:
    sound = load_base(base).model.state_dict()
    damage(base.hf_path / name)
    again = load_base(base).model.state_dict()
    assert all(torch.equal(again[key], value) for key, value in sound.items())
    assert (base.hf_path.parent / "hf.corrupt").is_dir()
    assert len(list(base.hf_path.parent.glob("*.corrupt"))) == 1


def test_remains_of_a_killed_conversion_are_removed_by_the_next(base: BaseModelSpec) -> None:
    """They can be many gigabytes."""
    remains = base.hf_path.parent / ".partial-killed"
    remains.mkdir()
    (remains / "model.safetensors").write_bytes(b"half")
    (base.hf_path / MANIFEST).write_bytes(b"")
    load_base(base)
    assert not remains.exists()


def test_weights_that_others_put_there_are_taken_as_they_are(base: BaseModelSpec) -> None:
    (base.hf_path / MANIFEST).unlink()
    load_base(base)
    assert not (base.hf_path / MANIFEST).exists()
