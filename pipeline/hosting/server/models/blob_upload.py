"""One blob while it is uploaded."""

import hashlib
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from uuid import uuid4

from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.models.durable_file import disk_errors, publish


class BlobUpload:
    """Receives the bytes of a blob. Unless finished, it leaves nothing behind."""

    def __init__(self, target: Path, digest: str) -> None:
        self._target = target
        self._digest = digest
        self._partial = target.with_name(f".{target.name}.{uuid4().hex}.partial")
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        with disk_errors(self._target):
            self._file: IO[bytes] = self._partial.open("wb")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            # Closing flushes the buffer, which may fail on a full disk; the file is deleted anyway.
            with suppress(OSError):
                self._file.close()
        finally:
            self._partial.unlink(missing_ok=True)

    def write(self, block: bytes) -> None:
        """Append the next bytes.

        Raises:
            Refusal: 500, the disk is full or fails.
        """
        self._hash.update(block)
        with disk_errors(self._target):
            self._file.write(block)

    def finish(self) -> None:
        """Verify the hash, sync the file and give it its final name.

        Raises:
            Refusal: 400, the bytes do not have the promised digest; 500, the disk is full or
                fails.
        """
        found = f"sha256:{self._hash.hexdigest()}"
        if found != self._digest:
            raise Refusal(400, f'digest mismatch, expected "{self._digest}", got "{found}"')
        with disk_errors(self._target):
            publish(self._file, self._partial, self._target)
