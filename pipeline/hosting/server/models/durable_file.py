"""Files that are whole or absent after a crash, and disk errors as Ollama reports them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.hosting.server.errors import Refusal


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into Ollama's 500: which file was written, and why that failed."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise Refusal(500, f"write {path.name}: {reason}") from error


def publish(file: IO[bytes], partial: Path, target: Path) -> None:
    """Sync an open file and rename it from `partial` to `target`."""
    file.flush()
    os.fsync(file.fileno())
    partial.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
