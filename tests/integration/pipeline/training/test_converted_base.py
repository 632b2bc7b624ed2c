"""A converted base model is checked by its hashes, and converted again where it was damaged."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from config.training import load_training_config
from pipeline.storage.files import MANIFEST
from pipeline.training.base_model import load_base, load_model
from schemas.errors import AdapterUnsupported, ConfigurationError, FolderNotOurs
from schemas.training import BaseModelSpec
from tests.chaos.tiny_base import KEY, make_tiny_base
from tests.models.tiny_families import configs, make_model


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
    """They may be many gigabytes."""
    remains = base.hf_path.parent / ".partial-hf-k1ll3d_0.modelserver"
    remains.mkdir()
    (remains / "model.safetensors").write_bytes(b"half")
    (base.hf_path / MANIFEST).write_bytes(b"")
    load_base(base)
    assert not remains.exists()


def test_weights_that_others_put_there_are_taken_as_they_are(base: BaseModelSpec) -> None:
    (base.hf_path / MANIFEST).unlink()
    load_base(base)
    assert not (base.hf_path / MANIFEST).exists()


# Where the GGUF file lies -----------------------------------------------------------------------


@pytest.fixture
def gguf_alone(base: BaseModelSpec, tmp_path: Path) -> Path:
    """A folder with a GGUF file and nothing else."""
    folder = tmp_path / "key"
    folder.mkdir()
    shutil.copy(base.gguf_path, folder / "x.gguf")
    return folder


def moved(base: BaseModelSpec, hf_path: Path, gguf_path: Path) -> BaseModelSpec:
    return base.model_copy(update={"hf_path": hf_path, "gguf_path": gguf_path})


def test_gguf_file_inside_hf_path_stays(base: BaseModelSpec, gguf_alone: Path) -> None:
    """An earlier release deleted it. Loaded twice, since `hf` exists the second time."""
    gguf = gguf_alone / "x.gguf"
    before = gguf.read_bytes()
    for _ in range(2):
        loaded = load_base(moved(base, gguf_alone, gguf))
        assert loaded.model.config.model_type == "llama"
        assert gguf.read_bytes() == before
        assert (gguf_alone / "hf" / "config.json").is_file()


def test_foreign_files_in_the_target_folder_stay_and_are_named(
    base: BaseModelSpec, gguf_alone: Path
) -> None:
    """For example half a download: one clear error before the conversion."""
    folder = gguf_alone / "hf"
    folder.mkdir()
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"half of a download")
    with pytest.raises(FolderNotOurs, match="model-00001-of-00002"):
        load_base(moved(base, folder, gguf_alone / "x.gguf"))
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == b"half of a download"


def test_gguf_file_put_into_a_damaged_conversion_stays(
    base: BaseModelSpec, gguf_alone: Path
) -> None:
    folder = gguf_alone / "hf"
    load_base(moved(base, folder, gguf_alone / "x.gguf"))
    (gguf_alone / "x.gguf").rename(folder / "x.gguf")
    change(folder / "model.safetensors")
    with pytest.raises(FolderNotOurs, match=r"x\.gguf"):
        load_base(moved(base, folder, folder / "x.gguf"))
    assert (folder / "x.gguf").is_file()


def test_weights_in_the_layout_of_earlier_releases_are_loaded(
    base: BaseModelSpec, gguf_alone: Path
) -> None:
    """There they are in the base model's folder, beside the GGUF file."""
    load_base(base)
    for file in base.hf_path.iterdir():
        if file.name != MANIFEST:
            shutil.copy(file, gguf_alone)
    load_base(moved(base, gguf_alone / "hf", gguf_alone / "x.gguf"))
    assert not (gguf_alone / "hf").exists()


def test_missing_base_is_reported_with_its_paths(base: BaseModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="MODELSERVER_MODEL_DIR"):
        load_base(moved(base, tmp_path / "hf", tmp_path / "x.gguf"))


# What is refused before a training ---------------------------------------------------------------


def test_unknown_family_is_refused_before_its_weights_are_read(
    base: BaseModelSpec, tmp_path: Path
) -> None:
    """The training process checks it too: here there is no weight to read."""
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    with pytest.raises(AdapterUnsupported, match="mixtral"):
        load_base(moved(base, tmp_path, tmp_path / "none.gguf"))


def test_weights_that_lack_tensors_are_refused(base: BaseModelSpec, tmp_path: Path) -> None:
    """transformers would fill them with random numbers."""
    load_base(base)
    folder = tmp_path / "hf"
    shutil.copytree(base.hf_path, folder)
    (folder / MANIFEST).unlink(missing_ok=True)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigurationError, match="lacks 1 of its tensors"):
        load_base(moved(base, folder, base.gguf_path))


def test_of_a_base_that_takes_pictures_only_the_language_model_is_loaded(tmp_path: Path) -> None:
    """Gemma 3 gives the same logits as the whole model, and its vision tower gets no adapter."""
    whole = make_model(configs()["gemma3"]).eval()
    whole.save_pretrained(tmp_path)
    language = load_model(tmp_path, torch.float32).eval()
    ids = torch.arange(3, 11)[None]
    assert torch.equal(language(input_ids=ids).logits, whole(input_ids=ids).logits)
    assert not [name for name, _ in language.named_parameters() if "vision" in name]
