"""Sealed folders: files that belong together, written and replaced as one, and checked by hash.

The seal is a `manifest.json` with the hash of each file, so no single file can change unnoticed.
It also lists the files that ModelServer wrote: a folder with anything else in it is neither
replaced, set aside nor removed.
"""

import glob
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from pipeline.storage.damage import remove_own, set_aside
from pipeline.storage.disk_errors import disk_errors
from pipeline.storage.files import hash_file, sync, write_file
from pipeline.storage.manifests import (
    MANIFEST,
    PARTIAL,
    PARTIAL_END,
    Manifest,
    require_ours,
    sealed_files,
)
from schemas.errors import ArtefactCorrupt


@contextmanager
def folder_written_whole(target: Path, hashed: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target`, sealed and durable, if the block succeeds.

    `hashed` maps file names to hashes that the block computes while it writes; the block may add
    to it until it ends. Files without a hash there are read once more. Raises FolderNotOurs if
    `target` holds foreign files, before the block runs; DiskFull and DiskUnavailable.
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
                sync(path)
            require_ours(target)  # Again: the block may have run for minutes.
            remove_own(target)
            partial.replace(target)
            sync(target.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def remove_remains(target: Path) -> None:
    """Remove what killed writers of `target` left behind; the caller knows that none is running."""
    for path in target.parent.glob(f"{glob.escape(_partial_prefix(target))}*{PARTIAL_END}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _partial_prefix(target: Path) -> str:
    return f"{PARTIAL}{target.name}-"


def seal_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Write a folder's manifest; `files` maps names to hashes."""
    write_file(folder / MANIFEST, Manifest(files=dict(files)).model_dump_json().encode())


def verify_folder(folder: Path, expected: Mapping[str, str] | None = None) -> None:
    """Raise ArtefactCorrupt unless each sealed file is intact; change nothing.

    `expected` maps names to hashes that the manifest must have. They come from elsewhere, so that
    an intact folder with other content is refused too.
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
