"""Every kind of damage to every kind of file is noticed, set aside and made good; none is used.

The trainer and the checkpoints are the real ones, over fakes of what is around them. Training
itself, on a disk that loses what it was given, is in the integration tier's test_full_disk.py.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.dataset.dataset import Dataset
from pipeline.hosting.port import ServedModel
from pipeline.storage.files import (
    CORRUPT,
    MANIFEST,
    SET_ASIDE_KEPT,
    check_file,
    seal_folder,
    set_aside,
    write_file,
)
from pipeline.training.checkpoint import Position, load_newest, save
from schemas.errors import ArtefactCorrupt
from schemas.training import ADAPTER_CONFIG, ADAPTER_GGUF, ADAPTER_WEIGHTS
from tests.fakes.jobs import make_job
from tests.unit.pipeline.jobs.workshop import BASE, LATEST, Workshop

Damage = Callable[[Path], None]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_first_bit(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def flip_middle_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_last_bit(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def remove(path: Path) -> None:
    path.unlink()


DAMAGES = [
    truncate,
    empty,
    flip_first_bit,
    flip_middle_bit,
    flip_last_bit,
    lengthen,
    remove,
]
EACH_DAMAGE = pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)


def leave_remains(folder: Path) -> None:
    """What a killed writer leaves: temporary files and folders without a final name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".partial-abc").write_bytes(b"half of")
    (folder / ".partial-folder").mkdir()


# The data set ---------------------------------------------------------------------------------


def build(shop: Workshop, elder_id: str = "LXM") -> Dataset:
    return shop.datasets.build(elder_id, "李秀梅", BASE)


@EACH_DAMAGE
@pytest.mark.parametrize("which", ["path", "manifest_path"])
def test_damaged_data_set_is_noticed_set_aside_and_built_again(
    tmp_path: Path, which: str, damage: Damage
) -> None:
    shop = Workshop(tmp_path)
    dataset = build(shop)
    leave_remains(dataset.path.parent)
    path: Path = getattr(dataset, which)
    sound = path.read_bytes()
    damage(path)
    with pytest.raises(ArtefactCorrupt):
        dataset.check()
    assert not path.exists()
    assert path.with_name(path.name + CORRUPT).exists() == (damage is not remove)
    build(shop).check()
    assert path.read_bytes() == sound


@pytest.mark.parametrize("which", ["path", "manifest_path"])
def test_another_elders_data_set_in_the_place_of_ones_own_is_noticed(
    tmp_path: Path, which: str
) -> None:
    shop = Workshop(tmp_path)
    mine, other = build(shop), build(shop, "OTHER")
    shutil.copy(getattr(other, which), getattr(mine, which))
    with pytest.raises(ArtefactCorrupt):
        mine.check()
    build(shop).check()


@EACH_DAMAGE
def test_data_set_damaged_while_it_is_trained_on_is_never_asked_from(
    tmp_path: Path, damage: Damage
) -> None:
    """No version is released; the next attempt builds it again and ends well."""
    shop = Workshop(tmp_path)

    def spoil(folder: Path) -> None:
        damage(shop.runner.specs[-1].dataset_path)

    shop.runner.damages = [spoil]
    with pytest.raises(ArtefactCorrupt):
        shop.run()
    assert shop.host.asked == []
    assert shop.run(make_job(fence=2)).version == 1


# The adapter ----------------------------------------------------------------------------------


def in_adapter(name: str, damage: Damage) -> Damage:
    return lambda folder: damage(folder / name)


def replace_by_another_jobs(folder: Path) -> None:
    """A whole, sealed adapter, of another job."""
    hashes = {path.name: write_file(path, b"another's") for path in folder.iterdir()}
    seal_folder(folder, {name: hash_ for name, hash_ in hashes.items() if name != MANIFEST})


@pytest.mark.parametrize(
    "damage",
    [
        *(
            pytest.param(in_adapter(name, damage), id=f"{damage.__name__} {name}")
            for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG, ADAPTER_GGUF, MANIFEST)
            for damage in DAMAGES
        ),
        pytest.param(shutil.rmtree, id="folder missing"),
        pytest.param(replace_by_another_jobs, id="another job's"),
    ],
)
def test_damaged_adapter_never_reaches_the_host_and_is_trained_again(
    tmp_path: Path, damage: Damage
) -> None:
    shop = Workshop(tmp_path)
    shop.runner.damages = [damage]
    with pytest.raises(ArtefactCorrupt):
        shop.run()
    assert shop.host.tags() == []
    attempt = shop.runner.specs[0].work_dir
    assert not (attempt / "adapter").exists()
    assert (attempt / f"adapter{CORRUPT}").exists() == (damage is not shutil.rmtree)
    leave_remains(attempt)
    assert shop.run(make_job(fence=2)).version == 1
    definition = shop.host.definition(LATEST)
    assert isinstance(definition, ServedModel) and definition.file is not None
    assert definition.file.parent.parent.name == "2"


# Checkpoints ----------------------------------------------------------------------------------

RUN = "a" * 64


def write(folder: Path, step: int, run: str = RUN) -> Path:
    position = Position(identity=run, step=step, loss=0.5)
    return save(folder, position, {"weights": torch.full((3,), float(step))})


def step_of(*folders: Path, own: Path) -> int | None:
    """Load the furthest one and return its step, checked against its tensors."""
    found = load_newest(folders, RUN, own)
    if found is None:
        return None
    position, tensors = found
    assert tensors["weights"].tolist() == [float(position.step)] * 3
    return position.step


@EACH_DAMAGE
@pytest.mark.parametrize("name", ["tensors.safetensors", "position.json", MANIFEST])
@pytest.mark.parametrize("older", [True, False], ids=["older one", "none"])
def test_damaged_checkpoint_is_set_aside_and_training_goes_on_from_an_older_or_the_beginning(
    tmp_path: Path, name: str, damage: Damage, older: bool
) -> None:
    if older:
        write(tmp_path, 1)
    newest = write(tmp_path, 2)
    leave_remains(tmp_path)
    damage(newest / name)
    assert step_of(tmp_path, own=tmp_path) == (1 if older else None)
    assert not newest.exists()
    assert newest.with_name(newest.name + CORRUPT).is_dir()


@EACH_DAMAGE
@pytest.mark.parametrize("name", ["tensors.safetensors", "position.json", MANIFEST])
def test_damaged_checkpoint_of_an_earlier_attempt_is_passed_over(
    tmp_path: Path, name: str, damage: Damage
) -> None:
    """Its worker may still be at it, so it stays; the end of the job removes it."""
    earlier, own = tmp_path / "1", tmp_path / "2"
    write(earlier, 1)
    damage(write(earlier, 2) / name)
    assert step_of(own, earlier, own=own) == 1
    assert (earlier / "checkpoint-00000002").is_dir()


def test_sound_files_from_another_checkpoint_are_not_taken(tmp_path: Path) -> None:
    """Each whole by itself, but of two different moments."""
    one, two = write(tmp_path, 1), write(tmp_path, 2)
    shutil.copy(one / "position.json", two / "position.json")
    assert step_of(tmp_path, own=tmp_path) == 1


def test_another_jobs_checkpoints_take_no_place_of_ones_own(tmp_path: Path) -> None:
    """Only the furthest two are kept: another's with more steps must not push them out."""
    for step in (98, 99):
        write(tmp_path, step, run="b" * 64)
    assert step_of(tmp_path, own=tmp_path) is None
    write(tmp_path, 1)
    assert step_of(tmp_path, own=tmp_path) == 1


def test_link_in_the_place_of_a_checkpoint_is_not_followed(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", 5)
    own = tmp_path / "own"
    own.mkdir()
    (own / "checkpoint-00000005").symlink_to(elsewhere)
    assert step_of(own, own=own) is None
    assert elsewhere.exists()


# What is set aside ----------------------------------------------------------------------------


def test_what_is_set_aside_is_bounded_by_name_and_by_folder(tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / f"file{number}"
        for _ in range(3):
            write_file(path, b"x")
            with pytest.raises(ArtefactCorrupt):
                check_file(path, "0" * 64)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"file{n}{CORRUPT}" for n in range(6 - SET_ASIDE_KEPT, 6)]


def sealed(folder: Path, content: bytes) -> Path:
    """Write a sealed folder with one file."""
    folder.mkdir()
    seal_folder(folder, {"file": write_file(folder / "file", content)})
    return folder


def test_folder_is_set_aside_over_an_earlier_one_of_its_name(tmp_path: Path) -> None:
    """os.replace() refuses a folder that is not empty."""
    for content in (b"first", b"second"):
        set_aside(sealed(tmp_path / "adapter", content))
    assert (tmp_path / f"adapter{CORRUPT}" / "file").read_bytes() == b"second"
    assert len(list(tmp_path.iterdir())) == 1
