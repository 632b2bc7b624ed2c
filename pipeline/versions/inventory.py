"""The inventory of an elder's data sets and adapters on the disk: lists and removes them.

Knows the layout of the two folders, `<jsonl>/<elder>/<sha256>.jsonl` and
`<adapters>/<elder>/<job>/<fence>/…`, and decides nothing. It follows no symbolic link and never
leaves the two folders: each folder is opened relative to its parent, and links are refused.
"""

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from pipeline.storage.damage import CORRUPT
from pipeline.storage.manifests import PARTIAL
from schemas.base import Frozen
from schemas.identifiers import JOB_ID_PATTERN, is_elder_id
from schemas.training import ADAPTER_FOLDER, ADAPTER_GGUF

Root = Literal["jsonl", "adapters"]
Kind = Literal["adapter", "work", "dataset", "remains"]

_JOB = re.compile(JOB_ID_PATTERN)
_DATASET = re.compile(r"([0-9a-f]{64})\.(?:jsonl|manifest\.json)")


class Item(Frozen):
    """A file or folder that is kept or removed as a whole.

    Its kind is `adapter` for the result of an attempt at a job, `work` for anything else in the
    attempt's folder, `dataset` for a JSONL or its manifest, and `remains` for what was set aside
    as corrupt or never finished.
    """

    root: Root
    path: tuple[str, ...]
    """The names below the root; the first is the elder's id."""
    kind: Kind
    job_id: str | None = None
    sha256: str | None = None
    """Of a data set, taken from its name; of an adapter, its GGUF's, if the job has several."""
    modified_ns: int
    """The time of the newest change in it, in nanoseconds of Unix time."""
    size_bytes: int

    @property
    def name(self) -> str:
        """The path, with its root, for display."""
        return "/".join((self.root, *self.path))


class Inventory:
    """Lists and removes items in the two folders."""

    def __init__(self, jsonl: Path, adapters: Path) -> None:
        self._roots: dict[Root, Path] = {"jsonl": jsonl, "adapters": adapters}

    def items(self, elder_id: str) -> tuple[Item, ...]:
        """List an elder's items; links, and files with unknown names, are left out."""
        if not is_elder_id(elder_id):
            return ()
        return (*self._datasets(elder_id), *self._adapters(elder_id))

    def remove(self, item: Item) -> bool:
        """Remove an item; False if it is gone or has changed since it was listed."""
        *folders, name = item.path
        try:
            with self._opened(item.root, folders) as folder:
                if _newest(name, folder) != item.modified_ns:
                    return False
                if stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                    shutil.rmtree(name, dir_fd=folder)
                else:
                    os.unlink(name, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            return False
        self._remove_empty(item.root, folders)
        return True

    def _remove_empty(self, root: Root, folders: list[str]) -> None:
        """Remove the folders above that are now empty, except the elder's own."""
        while len(folders) > 1:
            *above, name = folders
            with suppress(OSError), self._opened(root, above) as folder:
                os.rmdir(name, dir_fd=folder)
            folders = above

    @contextmanager
    def _opened(self, root: Root, folders: list[str]) -> Iterator[int]:
        """Yield a descriptor of a folder below a root, opened name by name, refusing links."""
        # The root itself may be a link: that is how operators put it on another disk.
        folder = os.open(self._roots[root], os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in folders:
                deeper = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = deeper
            yield folder
        finally:
            os.close(folder)

    def _datasets(self, elder_id: str) -> Iterator[Item]:
        for name in self._names("jsonl", elder_id):
            found = _DATASET.fullmatch(name)
            if found is not None:
                yield from self._item("jsonl", (elder_id, name), "dataset", sha256=found[1])
            elif _is_remains(name):
                yield from self._item("jsonl", (elder_id, name), "remains")

    def _adapters(self, elder_id: str) -> Iterator[Item]:
        for job in filter(_JOB.fullmatch, self._names("adapters", elder_id)):
            attempts = [n for n in self._names("adapters", elder_id, job) if n.isdecimal()]
            several = len(attempts) > 1
            for attempt in attempts:
                for name in self._names("adapters", elder_id, job, attempt):
                    path = (elder_id, job, attempt, name)
                    kind: Kind = "remains" if _is_remains(name) else "work"
                    sha256 = None
                    if name == ADAPTER_FOLDER:
                        kind = "adapter"
                        sha256 = self._gguf_hash(path) if several else None
                    yield from self._item("adapters", path, kind, job_id=job, sha256=sha256)

    def _names(self, root: Root, *folders: str) -> list[str]:
        with suppress(OSError), self._opened(root, list(folders)) as folder:
            return sorted(os.listdir(folder))  # noqa: PTH208 - a descriptor, not a path
        return []

    def _gguf_hash(self, path: tuple[str, ...]) -> str | None:
        with suppress(OSError), self._opened("adapters", list(path)) as folder:
            gguf = os.open(ADAPTER_GGUF, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
            with os.fdopen(gguf, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return None

    def _item(
        self,
        root: Root,
        path: tuple[str, ...],
        kind: Kind,
        *,
        job_id: str | None = None,
        sha256: str | None = None,
    ) -> Iterator[Item]:
        """Yield the item, unless it is a link or has vanished."""
        *folders, name = path
        with suppress(OSError), self._opened(root, folders) as folder:
            if stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode):
                return
            yield Item(
                root=root,
                path=path,
                kind=kind,
                job_id=job_id,
                sha256=sha256,
                modified_ns=_newest(name, folder),
                size_bytes=sum(s.st_size for s in _statuses(name, folder)),
            )


def _newest(name: str, folder: int) -> int:
    return max(status.st_mtime_ns for status in _statuses(name, folder))


def _statuses(name: str, folder: int) -> Iterator[os.stat_result]:
    """Yield the status of a file, or of a folder and all in it; links are not followed."""
    status = os.lstat(name, dir_fd=folder)
    yield status
    if stat.S_ISDIR(status.st_mode):
        for _, directories, files, inside in os.fwalk(name, dir_fd=folder):
            for inner in (*directories, *files):
                with suppress(FileNotFoundError):
                    yield os.lstat(inner, dir_fd=inside)


def _is_remains(name: str) -> bool:
    return name.startswith(PARTIAL) or name.endswith(CORRUPT)
