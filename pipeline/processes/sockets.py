"""A private folder for a process's unix sockets, with a path that is short enough.

A socket's path is limited to 107 bytes, so the folder cannot be in the data directory. Each process
locks its folder. A killed process leaves its folder behind, and the next process of the same user
removes every folder that is not locked.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

_PREFIX: Final = "modelserver-sockets-"
# The kernel's limit (sun_path) less what the names of folder and socket take.
_LONGEST_PARENT: Final = 107 - 48
_FALLBACK_PARENT: Final = Path("/tmp")  # noqa: S108  (mkdtemp gives each folder to its owner alone)


class SocketFolder:
    """The folder of one process, locked until it is closed or the process ends."""

    def __init__(self, parent: Path | None = None) -> None:
        """Create it in `parent` (the system's temporary folder) and remove abandoned ones there.

        If the parent's path is too long, /tmp is used.
        """
        wanted = Path(tempfile.gettempdir()) if parent is None else parent
        is_short = len(os.fsencode(wanted)) <= _LONGEST_PARENT
        self._parent = wanted if is_short else _FALLBACK_PARENT
        self._handle = -1
        while self._handle < 0:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))
            # Another process may remove the folder before it is locked: try again.
            self._handle = _lock(self.path)
        self._remove_abandoned()

    def close(self) -> None:
        """Remove the folder and release its lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._handle)

    def _remove_abandoned(self) -> None:
        for folder in self._parent.glob(f"{_PREFIX}*"):
            if folder == self.path or not _is_ours(folder):
                continue
            if (handle := _lock(folder)) >= 0:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(handle)


def _lock(folder: Path) -> int:
    """Lock a folder and return the descriptor; -1 if it is locked by another or is gone."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except OSError:
            pass
        os.close(handle)
    return -1


def _is_ours(folder: Path) -> bool:
    with suppress(OSError):
        found = folder.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return False
