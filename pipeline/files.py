"""Files written whole or not at all, and checked by hash when read."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from schemas.errors import ArtefactCorrupt, DiskFull


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn a full disk or quota into DiskFull; let other errors through."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull from error
        raise


@contextmanager
def temporary_beside(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file in `path`'s folder; it is gone afterwards unless it was renamed."""
    with disk_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=".partial-", delete=False) as file:
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
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_file(path: Path, content: bytes) -> None:
    """Write a small file whole or not at all."""
    with temporary_beside(path) as file:
        file.write(content)
        publish_file(file, path)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, sha256: str) -> None:
    """Raise ArtefactCorrupt unless the file is there with this hash; set a wrong one aside."""
    if not path.is_file():
        raise ArtefactCorrupt(f"{path.name} is missing; it must be built again")
    if hash_file(path) != sha256:
        path.replace(path.with_name(path.name + ".corrupt"))
        raise ArtefactCorrupt(f"{path.name} was changed; it was set aside and must be rebuilt")
