"""Files written whole or not at all, and checked by hash when read.

A single file gets its final name by a rename. Files that belong together lie in a folder that is
sealed: `manifest.json` has the hash of each, so that no one of them can change unnoticed. What is
found damaged is set aside under a name that tells, and never read again. The manifest also says
what is ours: a folder with anything else in it is neither replaced, set aside nor removed.
"""

import glob
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile, mkdtemp
from typing import IO

from pipeline.storage.disk_errors import disk_errors
from pipeline.storage.manifests import MANIFEST as MANIFEST
from pipeline.storage.manifests import PARTIAL as PARTIAL
from pipeline.storage.manifests import PARTIAL_END, Manifest, is_sealed, require_ours
from pipeline.storage.manifests import sealed_files as sealed_files
from schemas.errors import ArtefactCorrupt, FolderNotOurs

CORRUPT = ".corrupt"
# Enough to look into a bad disk; more would fill it.
SET_ASIDE_KEPT = 3


# One file -------------------------------------------------------------------------------------


@contextmanager
def temporary_beside(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file in `path`'s folder; it is gone afterwards unless it was renamed."""
    with disk_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(
            dir=path.parent, prefix=PARTIAL, suffix=PARTIAL_END, delete=False
        ) as file:
            try:
                yield file
            finally:
                Path(file.name).unlink(missing_ok=True)


def publish_file(file: IO[bytes], path: Path) -> None:
    """Bring a temporary file to its final name, durably: fsync, rename, fsync of the folder."""
    with disk_errors():
        file.flush()
        os.fsync(file.fileno())
        Path(file.name).replace(path)
        _sync(path.parent)


def write_file(path: Path, content: bytes) -> str:
    """Write a small file whole or not at all; return the hash of what was to be written."""
    with temporary_beside(path) as file:
        file.write(content)
        publish_file(file, path)
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, sha256: str) -> None:
    """Raise ArtefactCorrupt unless the file is there with this hash; set a wrong one aside."""
    if not path.is_file():
        raise ArtefactCorrupt(f"{path.name} is missing; it must be built again")
    if hash_file(path) != sha256:
        set_aside(path)
        raise ArtefactCorrupt(f"{path.name} was changed; it was set aside and must be rebuilt")


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to `<name>.corrupt`; return where it lies now.

    The last one of each name is kept, and the newest few of a folder. Raises FolderNotOurs for a
    sealed folder with foreign files; what is not known to be ours is never removed.
    """
    if is_sealed(path):
        require_ours(path)
    target = _free_name(path)
    path.replace(target)
    os.utime(target)  # Its age counts from now, not from when it was written.
    # Files and folders are counted apart.
    others = [
        p for p in path.parent.glob(f"*{CORRUPT}") if p != target and p.is_dir() == target.is_dir()
    ]
    others.sort(key=lambda p: p.lstat().st_mtime_ns, reverse=True)
    for old in others[SET_ASIDE_KEPT - 1 :]:
        with suppress(FolderNotOurs):
            _remove(old)
    return target


def _free_name(path: Path) -> Path:
    """Return `<name>.corrupt`, once free, or the first `<name>-<number>.corrupt`."""
    target, number = path.with_name(path.name + CORRUPT), 1
    while True:
        try:
            _remove(target)
            return target
        except FolderNotOurs:
            number += 1
            target = path.with_name(f"{path.name}-{number}{CORRUPT}")


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder; raises FolderNotOurs, with nothing removed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    require_ours(path)
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


# A sealed folder ------------------------------------------------------------------------------


@contextmanager
def folder_written_whole(target: Path, hashed: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Give a temporary folder that becomes `target`, sealed and durable, if the block succeeds.

    `hashed` are the hashes of files that the block counts while it writes, by name; it may fill
    them in until it ends. The other files are read once more. Raises FolderNotOurs, before the
    block, where `target` holds files that are not its own.
    """
    with disk_errors():
        require_ours(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(
            mkdtemp(dir=target.parent, prefix=_partial_prefix(target), suffix=PARTIAL_END)
        )
        try:
            yield partial
            files = sorted(path for path in partial.iterdir() if path.is_file())
            known = hashed or {}
            seal_folder(
                partial, {path.name: known.get(path.name) or hash_file(path) for path in files}
            )
            for path in (*files, partial):
                _sync(path)
            require_ours(target)  # Minutes may have passed.
            _remove(target)
            partial.replace(target)
            _sync(target.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def remove_remains(target: Path) -> None:
    """Remove what killed writers of `target` left; the caller knows that none is at work."""
    for path in target.parent.glob(f"{glob.escape(_partial_prefix(target))}*{PARTIAL_END}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _partial_prefix(target: Path) -> str:
    return f"{PARTIAL}{target.name}-"


def seal_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Write a folder's manifest; `files` are hashes by name."""
    write_file(folder / MANIFEST, Manifest(files=dict(files)).model_dump_json().encode())


def verify_folder(folder: Path, expected: Mapping[str, str] | None = None) -> None:
    """Raise ArtefactCorrupt unless each sealed file is whole; change nothing.

    `expected` are hashes by name that the manifest itself must hold: they come from elsewhere,
    so that another's whole folder is refused too.
    """
    files = sealed_files(folder)
    for name, sha256 in (expected or {}).items():
        if files.get(name) != sha256:
            raise ArtefactCorrupt(f"{folder.name} holds another {name}; it must be built again")
    for name, sha256 in files.items():
        path = folder / name
        if path.parent != folder or not path.is_file() or hash_file(path) != sha256:
            raise ArtefactCorrupt(f"{folder.name}: {name} is missing or was changed")


def check_folder(folder: Path, expected: Mapping[str, str] | None = None) -> None:
    """Raise ArtefactCorrupt as `verify_folder` does, and set the damaged folder aside."""
    try:
        verify_folder(folder, expected)
    except ArtefactCorrupt:
        if folder.is_dir():
            set_aside(folder)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
