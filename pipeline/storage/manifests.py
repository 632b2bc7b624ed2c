"""Manifests of sealed folders: the hash of each file, and so which files ModelServer wrote.

A folder with any other file in it may belong to another program: nothing in `pipeline.storage`
replaces it, sets it aside or removes it.
"""

import re
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from schemas.base import Frozen
from schemas.errors import ArtefactCorrupt, FolderNotOurs
from schemas.identifiers import Sha256

MANIFEST = "manifest.json"
PARTIAL = ".partial-"
# Unfinished files are called `.partial-….modelserver`, a name that no other program uses.
PARTIAL_END = ".modelserver"
# How each manifest of ModelServer begins, even a truncated one. Other programs write files of this
# name too.
_BEGINNING = b'{"files":{'
# Names of the files in sealed folders: checkpoints, adapters, merged and converted models. They are
# looked at only if the manifest itself is damaged.
_SEALED_NAME = re.compile(
    r"tensors\.safetensors|position\.json|adapter_(model\.safetensors|config\.json)"
    r"|(adapter|merged)\.gguf|model[\w-]*\.safetensors(\.index\.json)?|(generation_)?config\.json"
    r"|tokenizer(_config)?\.json|tokenizer\.model|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.json|merges\.txt|chat_template\.jinja"
)
_NAMED_AT_MOST = 3


class Manifest(Frozen):
    """The files of a sealed folder by name, with their hashes."""

    files: dict[str, Sha256]


def sealed_files(folder: Path) -> dict[str, str]:
    """Return the hashes that a folder was sealed with, by file name.

    Raises ArtefactCorrupt if the manifest is missing or damaged.
    """
    with suppress(OSError, ValidationError):
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes()).files
    raise ArtefactCorrupt(f"{folder.name} has no whole manifest; it must be built again")


def is_sealed(folder: Path) -> bool:
    """Say whether a folder has a manifest of ModelServer, even a truncated or empty one."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            return file.read(len(_BEGINNING)) in (b"", _BEGINNING)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False


def require_ours(folder: Path) -> None:
    """Raise FolderNotOurs if a folder holds anything that its manifest does not name.

    A folder that is empty or missing passes. A link or a file in its place does not.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FolderNotOurs(f"{folder} is no folder; remove it or name another place")
    if not folder.is_dir():
        return
    foreign = sorted(entry.name for entry in folder.iterdir() if not _is_own(folder, entry))
    if foreign:
        told = ", ".join(foreign[:_NAMED_AT_MOST]) + (" …" if len(foreign) > _NAMED_AT_MOST else "")
        raise FolderNotOurs(
            f"{folder} holds files that ModelServer did not write ({told}) and was left as it is; "
            "move them away or name another folder"
        )


def _is_own(folder: Path, entry: Path) -> bool:
    """Say whether ModelServer wrote an entry of a folder."""
    if entry.is_dir() and not entry.is_symlink():
        return False
    if entry.name.startswith(PARTIAL) and entry.name.endswith(PARTIAL_END):
        return True
    try:
        return entry.name == MANIFEST or entry.name in sealed_files(folder)
    except ArtefactCorrupt:
        is_known = entry.name == MANIFEST or _SEALED_NAME.fullmatch(entry.name) is not None
        return is_known and is_sealed(folder)
