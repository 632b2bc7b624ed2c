"""Blobs and manifests on disk.

    <folder>/blobs/sha256-<hex>      content-addressed, checked when uploaded
    <folder>/manifests/<name>.json   one a model

Everything is written to a temporary file, synced and renamed: after a crash a file is whole or
absent. One process owns the folder; the manifests are kept in memory.
"""

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self
from uuid import uuid4

from pydantic import ValidationError

from pipeline.hosting.server.catalogue import Catalogue
from pipeline.hosting.server.failures import Refusal, UnsupportedFile, model_not_found
from pipeline.hosting.server.names import ModelName, is_digest, parse_digest
from pipeline.hosting.server.shapes import Manifest
from pipeline.weights.gguf_file import NotGguf, UnusableGguf, Weights, read_weights

_FORGOTTEN_AFTER_S: Final = 3600.0


class BlobUpload:
    """A blob on its way in; leaves nothing behind unless it is finished."""

    def __init__(self, target: Path, digest: str) -> None:
        self._target = target
        self._digest = digest
        self._partial = target.with_name(f".{target.name}.{uuid4().hex}.partial")
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        with _disk_errors(self._target):
            self._file: IO[bytes] = self._partial.open("wb")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            # What is still buffered is lost with the file: no room for it is no fault any more.
            with suppress(OSError):
                self._file.close()
        finally:
            self._partial.unlink(missing_ok=True)

    def write(self, block: bytes) -> None:
        """Take the next bytes.

        Raises:
            Refusal: 500, the disk is full or fails.
        """
        self._hash.update(block)
        with _disk_errors(self._target):
            self._file.write(block)

    def finish(self) -> None:
        """Check the hash, make it durable, give it its name.

        Raises:
            Refusal: 400, the bytes are not those which the digest promises; 500, the disk is full
                or fails.
        """
        found = f"sha256:{self._hash.hexdigest()}"
        if found != self._digest:
            raise Refusal(400, f'digest mismatch, expected "{self._digest}", got "{found}"')
        with _disk_errors(self._target):
            _make_durable(self._file, self._partial, self._target)


class Store:
    """The models of one server."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, making it if it is not there.

        Raises:
            BlockingIOError: another server owns it.
            ValueError: a manifest is damaged.
        """
        self._blobs = folder / "blobs"
        self._manifests = folder / "manifests"
        for each in (self._blobs, self._manifests):
            each.mkdir(parents=True, exist_ok=True)
        # A manifest may only name blobs that are there: writing one and deleting take turns.
        self._lock = threading.Lock()
        self._weights: dict[str, Weights] = {}
        self._owner_lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._owner_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove_partial_files()
            self._catalogue = Catalogue(self._read_manifests())
            self._remove_forgotten_blobs()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the folder back."""
        self._owner_lock.close()

    def blob_path(self, digest: str) -> Path:
        """Return where a blob lies, or would lie."""
        return self._blobs / parse_digest(digest).replace(":", "-")

    def has_blob(self, digest: str) -> bool:
        """Say whether the blob is there."""
        return self.blob_path(digest).is_file()

    def upload(self, digest: str) -> BlobUpload:
        """Begin to take in a blob."""
        return BlobUpload(self.blob_path(digest), parse_digest(digest))

    def weights(self, digest: str) -> Weights:
        """Return the header of a GGUF blob; read once, as a blob never changes.

        Raises:
            Refusal: 500, the blob is not there or damaged.
            UnsupportedFile: it is another kind of file.
        """
        key = parse_digest(digest)
        if key not in self._weights:
            if not self.has_blob(key):
                raise Refusal(500, f"open {self.blob_path(key)}: no such file or directory")
            try:
                self._weights[key] = read_weights(self.blob_path(key))
            except NotGguf as error:
                raise UnsupportedFile(str(error)) from error
            except UnusableGguf as error:
                raise Refusal(500, str(error)) from error
        return self._weights[key]

    def models(self) -> list[Manifest]:
        """Return all models, the one changed last first."""
        with self._lock:
            return self._catalogue.models()

    def adapters_of(self, base: str) -> list[str]:
        """Return the adapters of a base's models, those of the model changed last first."""
        with self._lock:
            return list(self._catalogue.adapters_of(base))

    def find(self, name: str) -> Manifest:
        """Return a model.

        Raises:
            Refusal: 404, there is none of this name; 400, it is no name.
        """
        manifest = self._catalogue.find(ModelName.parse(name).key)
        if manifest is None:
            raise model_not_found(name)
        return manifest

    def save(self, manifest: Manifest) -> frozenset[str]:
        """Write a model; it replaces one of the same name.

        Returns:
            The blobs of the one replaced that no model needs any more: they are removed.

        Raises:
            Refusal: 400, one of its blobs is not there (any more); 500, the disk is full or fails.
        """
        with self._lock:
            for digest in manifest.blobs:
                if not self.has_blob(digest):
                    raise Refusal(400, f'blob "{digest}" not found')
            path = self._manifest_path(manifest)
            partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
            try:
                with _disk_errors(path), partial.open("wb") as file:
                    file.write(manifest.model_dump_json().encode())
                    _make_durable(file, partial, path)
            finally:
                partial.unlink(missing_ok=True)
            return self._remove_blobs(self._catalogue.put(manifest))

    def delete(self, name: str) -> frozenset[str]:
        """Remove a model, and its blobs which no other model needs; return those.

        Raises:
            Refusal: 404, there is none of this name; 400, it is no name.
        """
        with self._lock:
            manifest = self.find(name)
            self._manifest_path(manifest).unlink()
            orphans = self._remove_blobs(self._catalogue.remove(manifest))
            _sync_folder(self._manifests)
        return orphans

    def _remove_blobs(self, digests: frozenset[str]) -> frozenset[str]:
        for digest in digests:
            self.blob_path(digest).unlink(missing_ok=True)
            self._weights.pop(digest, None)
        return digests

    def _manifest_path(self, manifest: Manifest) -> Path:
        return self._manifests / f"{ModelName.parse(manifest.name).file_stem}.json"

    def _read_manifests(self) -> Iterable[Manifest]:
        for path in self._manifests.glob("*.json"):
            try:
                yield Manifest.model_validate_json(path.read_bytes())
            except ValidationError as error:
                raise ValueError(f"{path} is damaged; restore or remove it") from error

    def _remove_partial_files(self) -> None:
        for folder in (self._blobs, self._manifests):
            for path in folder.glob(".*.partial"):
                path.unlink(missing_ok=True)

    def _remove_forgotten_blobs(self) -> None:
        """Remove blobs that no model needs: uploads whose model was refused or never made.

        Young ones stay, as in Ollama: their model may be about to be made.
        """
        for path in self._blobs.glob("sha256-*"):
            if not is_digest(path.name) or self._catalogue.is_needed(parse_digest(path.name)):
                continue
            if time.time() - path.stat().st_mtime > _FORGOTTEN_AFTER_S:
                path.unlink(missing_ok=True)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Tell of a disk that is full or fails as Ollama does: what was written, and why it was not."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise Refusal(500, f"write {path.name}: {reason}") from error


def _make_durable(file: IO[bytes], partial: Path, target: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    partial.replace(target)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
