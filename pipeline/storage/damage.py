"""Damaged files and folders: renamed to `<name>.corrupt` and never read again.

Some are kept for an operator to examine; the oldest are removed.
"""

import os
from contextlib import suppress
from pathlib import Path

from pipeline.storage.manifests import is_sealed, require_ours
from schemas.errors import FolderNotOurs

CORRUPT = ".corrupt"
# Enough to examine a bad disk; more would fill it.
SET_ASIDE_KEPT = 3


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to `<name>.corrupt`; return its new path.

    Keeps the newest of each name and, in each parent folder, the newest SET_ASIDE_KEPT files and
    the newest SET_ASIDE_KEPT folders. Raises FolderNotOurs for a sealed folder with foreign files;
    removes nothing that ModelServer is not known to have written.
    """
    if is_sealed(path):
        require_ours(path)
    target = _free_name(path)
    path.replace(target)
    os.utime(target)  # Its age counts from now, not from the time it was written.
    # A file displaces older files, and a folder older folders.
    others = [
        p for p in path.parent.glob(f"*{CORRUPT}") if p != target and p.is_dir() == target.is_dir()
    ]
    others.sort(key=lambda p: p.lstat().st_mtime_ns, reverse=True)
    for old in others[SET_ASIDE_KEPT - 1 :]:
        with suppress(FolderNotOurs):
            remove_own(old)
    return target


def _free_name(path: Path) -> Path:
    """Return `<name>.corrupt`, after removing what is there.

    If that holds foreign files, return the first `<name>-<number>.corrupt` that does not.
    """
    target, number = path.with_name(path.name + CORRUPT), 1
    while True:
        try:
            remove_own(target)
            return target
        except FolderNotOurs:
            number += 1
            target = path.with_name(f"{path.name}-{number}{CORRUPT}")


def remove_own(path: Path) -> None:
    """Remove a file, a link or a folder of ours; raises FolderNotOurs with nothing removed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    require_ours(path)
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
