"""Errors of the disk: full, or failing, whichever library reports them."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import DiskFull, DiskUnavailable

# The disk serves nobody: it is broken, read-only or gone, or no more files may be opened. Missing
# rights are not among them: they may concern one elder's folder, and others must not wait for it.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FAILING = frozenset({errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO})
_FAILING |= {errno.EMFILE, errno.ENFILE}
# safetensors and NumPy give no errno: the text of Rust's errors, and that of ndarray.tofile().
_TOLD_BY_RUST = re.compile(r"\(os error (\d+)\)")
_SHORT_WRITE = re.compile(r"^\d+ requested and \d+ written$")


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise DiskFull for a full disk and DiskUnavailable for one that fails; pass on the rest."""
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
    """Return the system's error number; 0 where the error is not about a file."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    # By name: safetensors is not installed where nothing is trained.
    if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
        return 0
    if _SHORT_WRITE.search(str(error)):
        return errno.ENOSPC
    told = _TOLD_BY_RUST.search(str(error))
    return int(told[1]) if told else 0
