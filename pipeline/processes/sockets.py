"""A private folder for unix sockets, with a path short enough for one, that outlives no process.

A socket's path must fit into 107 bytes, so the folder cannot lie with the data. A process that is
killed leaves its folder behind: the next one removes what no living process holds locked.
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
# The kernel's limit (sun_path), less the folder's and the socket's own names.
_LONGEST_PARENT: Final = 107 - 48
_USUAL_PARENT: Final = Path("/tmp")  # noqa: S108  (each folder in it is made for its owner alone)


class SocketFolder:
    """The folder of one process, held until it is closed or the process ends."""

    def __init__(self, parent: Path | None = None) -> None:
        """Make it in the folder for temporary files, and remove what others left there."""
        usual = Path(tempfile.gettempdir()) if parent is None else parent
        self._parent = usual if len(os.fsencode(usual)) <= _LONGEST_PARENT else _USUAL_PARENT
        self._handle = -1
        while self._handle < 0:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))
            # Another process may remove it before it is locked.
            self._handle = _lock(self.path)
        self._remove_abandoned()

    def close(self) -> None:
        """Remove the folder."""
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
    """Return a handle that holds the folder locked; negative: another's, or there is none."""
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
