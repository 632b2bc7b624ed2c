"""Files written whole or not at all, and checked by hash when read.

A file is written under a temporary name and renamed to its final one. Writing to a full or failing
disk raises DiskFull or DiskUnavailable.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from pipeline.storage.damage import set_aside
from pipeline.storage.disk_errors import disk_errors
from pipeline.storage.manifests import PARTIAL, PARTIAL_END
from schemas.errors import ArtefactCorrupt


@contextmanager
def temporary_beside(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file in `path`'s folder; it is removed afterwards unless it was renamed."""
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
    """Give a temporary file its final name, durably: fsync, rename, fsync of the folder."""
    with disk_errors():
        file.flush()
        os.fsync(file.fileno())
        Path(file.name).replace(path)
        sync(path.parent)


def write_file(path: Path, content: bytes) -> str:
    """Write a small file whole or not at all; return the SHA-256 of `content`."""
    with temporary_beside(path) as file:
        file.write(content)
        publish_file(file, path)
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, sha256: str) -> None:
    """Raise ArtefactCorrupt unless the file exists with this hash; set a changed file aside."""
    if not path.is_file():
        raise ArtefactCorrupt(f"{path.name} is missing; it must be built again")
    if hash_file(path) != sha256:
        set_aside(path)
        raise ArtefactCorrupt(f"{path.name} was changed; it was set aside and must be rebuilt")


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
