"""Blobs and manifests on disk.

    <folder>/blobs/sha256-<hex>      content-addressed, checked when uploaded
    <folder>/manifests/<name>.json   one per model

Each file is written to a temporary file, synced and renamed, so that it is whole or absent after
a crash. One process owns the folder, guarded by a lock file; it keeps the manifests in memory.
"""

import fcntl
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from uuid import uuid4

from pydantic import ValidationError

from pipeline.hosting.server.errors import Refusal, UnsupportedFile, model_not_found
from pipeline.hosting.server.models.blob_upload import BlobUpload
from pipeline.hosting.server.models.catalogue import Catalogue
from pipeline.hosting.server.models.durable_file import disk_errors, publish, sync_folder
from pipeline.hosting.server.models.manifest import Manifest
from pipeline.hosting.server.models.names import ModelName, is_digest, parse_digest
from pipeline.weights.gguf_file import NotGguf, UnusableGguf, Weights, read_weights

_ORPHAN_AGE_S: Final = 3600.0


class Store:
    """The models of one server. May be used from any thread."""

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
        # A manifest may name only blobs that are there: saving and deleting exclude each other.
        self._lock = threading.Lock()
        self._weights: dict[str, Weights] = {}
        self._owner_lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._owner_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove_partial_files()
            self._catalogue = Catalogue(self._read_manifests())
            self._remove_orphans()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the folder's lock."""
        self._owner_lock.close()

    def blob_path(self, digest: str) -> Path:
        """Return the path of a blob, whether or not it is there."""
        return self._blobs / parse_digest(digest).replace(":", "-")

    def has_blob(self, digest: str) -> bool:
        """Say whether the blob is there."""
        return self.blob_path(digest).is_file()

    def has_blobs(self, digests: Iterable[str]) -> bool:
        """Say whether all of the blobs are there."""
        return all(map(self.has_blob, digests))

    def upload(self, digest: str) -> BlobUpload:
        """Begin the upload of a blob; a context manager."""
        return BlobUpload(self.blob_path(digest), parse_digest(digest))

    def weights(self, digest: str) -> Weights:
        """Return the header of a GGUF blob. It is cached, as a blob never changes.

        Raises:
            Refusal: 500, the blob is missing or damaged.
            UnsupportedFile: it is not GGUF.
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
        """Return all models, the most recently changed first."""
        with self._lock:
            return self._catalogue.models()

    def adapters_of(self, base: str) -> list[str]:
        """Return the adapters of a base's models, the most recently changed model's first."""
        with self._lock:
            return list(self._catalogue.adapters_of(base))

    def find(self, name: str) -> Manifest:
        """Return a model.

        Raises:
            Refusal: 404, there is no such model; 400, the name is invalid.
        """
        manifest = self._catalogue.find(ModelName.parse(name).key)
        if manifest is None:
            raise model_not_found(name)
        return manifest

    def save(self, manifest: Manifest) -> frozenset[str]:
        """Write a model; it replaces one of the same name.

        Returns:
            The blobs that were deleted because only the replaced model needed them.

        Raises:
            Refusal: 400, one of its blobs is missing; 500, the disk is full or fails.
        """
        with self._lock:
            for digest in manifest.blobs:
                if not self.has_blob(digest):
                    raise Refusal(400, f'blob "{digest}" not found')
            path = self._manifest_path(manifest)
            partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
            try:
                with disk_errors(path), partial.open("wb") as file:
                    file.write(manifest.model_dump_json().encode())
                    publish(file, partial, path)
            finally:
                partial.unlink(missing_ok=True)
            return self._remove_blobs(self._catalogue.put(manifest))

    def delete(self, name: str) -> frozenset[str]:
        """Delete a model and the blobs that only it needs; return those blobs.

        Raises:
            Refusal: 404, there is no such model; 400, the name is invalid.
        """
        with self._lock:
            manifest = self.find(name)
            self._manifest_path(manifest).unlink()
            orphans = self._remove_blobs(self._catalogue.remove(manifest))
            sync_folder(self._manifests)
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

    def _remove_orphans(self) -> None:
        """Delete blobs that no model needs: their model was refused or never created.

        Recent ones stay, as in Ollama: their model may be about to be created.
        """
        for path in self._blobs.glob("sha256-*"):
            if not is_digest(path.name) or self._catalogue.is_needed(parse_digest(path.name)):
                continue
            if time.time() - path.stat().st_mtime > _ORPHAN_AGE_S:
                path.unlink(missing_ok=True)
