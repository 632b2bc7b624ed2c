"""A folder with files that are not ours is neither replaced, set aside nor removed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.storage.damage import CORRUPT, set_aside
from pipeline.storage.files import write_file
from pipeline.storage.folders import check_folder, folder_written_whole, remove_remains, seal_folder
from pipeline.storage.manifests import MANIFEST
from schemas.errors import FolderNotOurs


def sealed(folder: Path, content: bytes) -> Path:
    """Write a sealed folder with one file."""
    folder.mkdir()
    seal_folder(folder, {"file": write_file(folder / "file", content)})
    return folder


def test_what_is_set_aside_takes_no_place_of_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    """Another program may own any number of folders whose names end in .corrupt."""
    theirs = [tmp_path / f"{name}{CORRUPT}" for name in ("adapter", "b", "c", "d", "e")]
    for folder in theirs:
        folder.mkdir()
        (folder / "letters.txt").write_text("theirs")
    for content in (b"first", b"second"):
        set_aside(sealed(tmp_path / "adapter", content))
    assert all((folder / "letters.txt").read_text() == "theirs" for folder in theirs)
    assert (tmp_path / f"adapter-2{CORRUPT}" / "file").read_bytes() == b"second"


def test_sealed_folder_with_a_foreign_file_is_not_set_aside(tmp_path: Path) -> None:
    folder = sealed(tmp_path / "hf", b"ours")
    (folder / "x.gguf").write_bytes(b"theirs")
    (folder / "file").write_bytes(b"damaged")
    with pytest.raises(FolderNotOurs, match=r"x\.gguf"):
        check_folder(folder)
    assert (folder / "x.gguf").read_bytes() == b"theirs"


# What a whole folder replaces -----------------------------------------------------------------


def write_whole(target: Path) -> None:
    with folder_written_whole(target) as partial:
        (partial / "file").write_bytes(b"new")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def add_file(folder: Path) -> None:
    (folder / "x.gguf").write_bytes(b"theirs")


def add_folder(folder: Path) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_bytes(b"theirs")


def add_link(folder: Path) -> None:
    (folder / "elsewhere").symlink_to(folder.parent)


def add_hidden(folder: Path) -> None:
    (folder / ".gitattributes").write_bytes(b"theirs")


def add_partial_of_another_program(folder: Path) -> None:
    (folder / ".partial-download").write_bytes(b"theirs")


FOREIGN = (add_file, add_folder, add_link, add_hidden, add_partial_of_another_program)


@pytest.mark.parametrize("add", FOREIGN, ids=lambda add: add.__name__)
@pytest.mark.parametrize("is_ours", [True, False], ids=["sealed", "not sealed"])
def test_folder_with_anything_foreign_is_not_replaced(
    tmp_path: Path, add: Callable[[Path], None], is_ours: bool
) -> None:
    """It stays untouched, is refused before any work, and nothing is left beside it."""
    target = tmp_path / "hf"
    target.mkdir()
    if is_ours:
        target.rmdir()
        write_whole(target)
    add(target)
    before = snapshot(tmp_path)
    begun = []
    with pytest.raises(FolderNotOurs), folder_written_whole(target):
        begun.append(1)
    assert not begun
    assert snapshot(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_file_that_came_while_a_folder_was_written_stays(tmp_path: Path) -> None:
    target = tmp_path / "hf"
    with pytest.raises(FolderNotOurs), folder_written_whole(target) as partial:
        (partial / "file").write_bytes(b"new")
        target.mkdir()
        add_file(target)
    assert snapshot(tmp_path) == {"hf/x.gguf": b"theirs"}


def test_another_programs_manifest_makes_no_folder_ours(tmp_path: Path) -> None:
    """Other programs write a manifest.json too."""
    target = tmp_path / "hf"
    target.mkdir()
    (target / MANIFEST).write_text('{"files": ["config.json"]}')
    (target / "config.json").write_text("{}")
    with pytest.raises(FolderNotOurs):
        write_whole(target)


@pytest.mark.parametrize("content", [b"", b'{"files":{"model.safetensors":"0'])
def test_damaged_manifest_lets_known_names_go_and_no_others(tmp_path: Path, content: bytes) -> None:
    target = tmp_path / "hf"
    target.mkdir()
    (target / MANIFEST).write_bytes(content)
    (target / "model.safetensors").write_bytes(b"ours")
    (target / "x.gguf").write_bytes(b"theirs")
    with pytest.raises(FolderNotOurs, match=r"\(x\.gguf\)"):
        write_whole(target)
    (target / "x.gguf").unlink()
    write_whole(target)
    assert (target / "file").read_bytes() == b"new"


@pytest.mark.parametrize("is_link", [True, False], ids=["link", "file"])
def test_what_is_no_folder_is_not_replaced(tmp_path: Path, is_link: bool) -> None:
    target, elsewhere = tmp_path / "hf", tmp_path / "big-disk"
    elsewhere.mkdir()
    target.symlink_to(elsewhere) if is_link else target.write_bytes(b"theirs")
    with pytest.raises(FolderNotOurs):
        write_whole(target)
    assert target.is_symlink() == is_link and target.exists()


def test_own_folder_empty_folder_and_no_folder_are_replaced(tmp_path: Path) -> None:
    target = tmp_path / "hf"
    write_whole(target)
    (target / ".partial-k1ll3d_0.modelserver").write_bytes(b"half of a file of ours")
    write_whole(target)
    (tmp_path / "empty").mkdir()
    write_whole(tmp_path / "empty")
    assert snapshot(target).keys() == snapshot(tmp_path / "empty").keys() == {"file", MANIFEST}


def test_remains_of_killed_writers_go_and_nothing_like_them(tmp_path: Path) -> None:
    """It removes only what a writer of this folder may have left."""
    ours = tmp_path / ".partial-hf-k1ll3d_0.modelserver"
    others = [".partial-hf2-k1ll3d_0.modelserver", ".partial-download", ".partial-hf-download"]
    for name in (ours.name, *others):
        (tmp_path / name).mkdir()
    (tmp_path / ".partial-hf-k1ll3d_1.modelserver").write_bytes(
        b"a file, and so not a writer's folder"
    )
    remove_remains(tmp_path / "hf")
    assert {path.name for path in tmp_path.iterdir()} == {
        *others,
        ".partial-hf-k1ll3d_1.modelserver",
    }
