"""A base model's GGUF file as it is sent to a host: without its own chat template.

Ollama prefers a chat template inside the file to the TEMPLATE that a model was made with, where
the former knows of tools or thinking; then what is served is not what was trained. A file of many
gigabytes is not rewritten for that: the template's key is renamed while the bytes are read, to
one of the same length that nobody looks for. Nothing else changes, and the file stays as it is.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.weights.gguf_file import UnusableGguf, read_weights

# And `tokenizer.chat_template.NAME`, of which a file may have several.
_KEY = "tokenizer.chat_template"
_AT = _KEY.index("chat")
_INSTEAD = b"kept"
_LENGTH_BYTES = 8
_BLOCK_BYTES = 1024 * 1024


class BaseFile:
    """Reads one GGUF file; memory stays flat. A file of another kind is read as it is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size_bytes = path.stat().st_size
        self._renamed = tuple(
            start + _AT
            for key, start in _keys(path).items()
            if key == _KEY or key.startswith(f"{_KEY}.")
        )

    def sha256(self) -> str:
        """Return the hash of what `blocks` yields."""
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes in order, the keys renamed."""
        start = 0
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield self._rename(block, start)
                start += len(block)

    def _rename(self, block: bytes, start: int) -> bytes:
        """Write over what lies in this block; a key may lie across two."""
        changed = bytearray(block)
        for renamed in self._renamed:
            for place, byte in enumerate(_INSTEAD, start=renamed - start):
                if 0 <= place < len(changed):
                    changed[place] = byte
        return bytes(changed)


def _keys(path: Path) -> dict[str, int]:
    """Return each metadata key, and where in the file its text begins, behind its length."""
    try:
        return {pair.key: pair.start + _LENGTH_BYTES for pair in read_weights(path).pairs}
    except UnusableGguf:
        return {}  # No GGUF, or big-endian: the host says what is wrong with it.
