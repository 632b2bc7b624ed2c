"""Disk errors: which ones mean a full disk, and which a failing one."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import DiskFull, DiskUnavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# No write can succeed there: the disk is broken, read-only or gone, or the process has too many
# open files. Missing permissions are not in the list: they may concern one elder's folder, and
# the others must not wait for it.
_FAILING = frozenset({errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO})
_FAILING |= {errno.EMFILE, errno.ENFILE}
# safetensors and NumPy set no errno. These match the texts of Rust's I/O errors, which safetensors
# passes on, and of NumPy's tofile().
_RUST_IO_ERROR = re.compile(r"\(os error (\d+)\)")
_SHORT_WRITE = re.compile(r"^\d+ requested and \d+ written$")


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise DiskFull or DiskUnavailable in place of a disk error, whichever library raised it.

    Other errors go through.
    """
    try:
        yield
    except Exception as error:
        number = _errno(error)
        if number in _FULL:
            raise DiskFull from error
        if number in _FAILING:
            where = getattr(error, "filename", None) or "a file"
            raise DiskUnavailable(
                f"the disk fails ({errno.errorcode[number]} at {where}); check it and its mount"
            ) from error
        raise


def _errno(error: Exception) -> int:
    """Return the errno of an error of the file system; 0 for any other error."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    # By name: this module is also imported where safetensors is not installed.
    if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
        return 0
    if _SHORT_WRITE.search(str(error)):
        return errno.ENOSPC
    matched = _RUST_IO_ERROR.search(str(error))
    return int(matched[1]) if matched else 0
