"""A base model's GGUF file as it is uploaded: without its own chat template.

If a file's chat template supports tools or thinking, Ollama prefers it to the TEMPLATE of the
model, and serves other prompts than those trained on. The file itself is not rewritten, as it may
have many gigabytes. Instead the template's metadata key is renamed in the bytes that are read, to
a key of the same length that no program looks up.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.weights.gguf_file import UnusableGguf, read_weights

# A file may also have several `tokenizer.chat_template.NAME`.
_KEY = "tokenizer.chat_template"
_AT = _KEY.index("chat")
_INSTEAD = b"kept"
_LENGTH_BYTES = 8
_BLOCK_BYTES = 1024 * 1024


class BaseFile:
    """Reads a GGUF file in blocks. A file of another kind is read unchanged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size_bytes = path.stat().st_size
        self._renamed = tuple(
            start + _AT
            for key, start in _keys(path).items()
            if key == _KEY or key.startswith(f"{_KEY}.")
        )

    def sha256(self) -> str:
        """Return the SHA-256 of the bytes that `blocks` yields."""
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes in order, with the keys renamed."""
        start = 0
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield self._rename(block, start)
                start += len(block)

    def _rename(self, block: bytes, start: int) -> bytes:
        """Rename the parts of the keys that lie in this block; a key may span two blocks."""
        changed = bytearray(block)
        for renamed in self._renamed:
            for place, byte in enumerate(_INSTEAD, start=renamed - start):
                if 0 <= place < len(changed):
                    changed[place] = byte
        return bytes(changed)


def _keys(path: Path) -> dict[str, int]:
    """Return the offset of each metadata key's text, which follows the key's length field."""
    try:
        return {pair.key: pair.start + _LENGTH_BYTES for pair in read_weights(path).pairs}
    except UnusableGguf:
        return {}  # Not GGUF, or big-endian: the host reports what is wrong with it.
