"""The header of a GGUF file: metadata, and name, shape, type and place of every tensor.

Reads GGUF v2 and v3, little-endian, as ggml's docs/gguf.md describes it; never the weights. Long
arrays, such as a tokenizer's words, are skipped: they are most of a header, and nothing here uses
them.
"""

import mmap
import struct
from math import prod
from pathlib import Path
from typing import Final

from schemas.base import Frozen

Value = bool | int | float | str | list[bool | int | float | str]

# Longer arrays of the metadata are skipped.
_MAX_ARRAY_KEPT: Final = 16
_STRING, _ARRAY = 8, 9
_SCALARS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
# In bytes; a file may name another one.
_ALIGNMENT: Final = 32
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
# By tensor type (ggml_type): the weights of a block, and its bytes.
_BLOCKS: Final = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    28: (1, 8),
    30: (1, 2),
}
# Names of `general.file_type` (llama_ftype).
_FILE_TYPES: Final = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    32: "BF16",
}


class Tensor(Frozen):
    """A tensor's header entry.

    `shape` has the contiguous dimension first, the reverse of NumPy's and torch's order. `offset`
    is in bytes from the beginning of the tensor data.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


class Pair(Frozen):
    """The bytes of one key and its value in the file, from `start` up to `end`."""

    key: str
    start: int
    end: int


class Weights(Frozen):
    """A GGUF file's header; the tensor data begin at byte `data_at`."""

    version: int
    metadata: dict[str, Value]
    pairs: tuple[Pair, ...]
    tensors: tuple[Tensor, ...]
    data_at: int

    @property
    def is_adapter(self) -> bool:
        """Whether this is a LoRA and not a model."""
        return self.metadata.get("general.type") == "adapter"

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, such as `llama` or `gemma3`."""
        return str(self.metadata.get("general.architecture", "unknown"))

    @property
    def alignment(self) -> int:
        """The bytes of which every tensor's offset is a multiple."""
        return _alignment(self.metadata)

    @property
    def parameter_count(self) -> int:
        """The number of weights in all tensors."""
        return sum(prod(tensor.shape) for tensor in self.tensors)

    @property
    def quantization(self) -> str:
        """The file type as Ollama shows it, such as `Q4_K_M`."""
        file_type = self.metadata.get("general.file_type")
        return _FILE_TYPES.get(file_type, "unknown") if isinstance(file_type, int) else "unknown"

    @property
    def context_length(self) -> int | None:
        """The number of tokens the model was trained for; None if the file does not say."""
        return self._length("context_length")

    @property
    def embedding_length(self) -> int | None:
        """The length of a token's vector; None if the file does not say."""
        return self._length("embedding_length")

    @property
    def has_pooling(self) -> bool:
        """Whether the model makes embeddings: it names how its tokens become one vector."""
        return f"{self.architecture}.pooling_type" in self.metadata

    def _length(self, key: str) -> int | None:
        length = self.metadata.get(f"{self.architecture}.{key}")
        return length if isinstance(length, int) else None


def aligned(at: int, alignment: int) -> int:
    """Round a byte offset up to a multiple of `alignment`."""
    return -(-at // alignment) * alignment


class UnusableGguf(Exception):
    """A file that cannot be served; its text is the message with which Ollama refuses it."""


class NotGguf(UnusableGguf):
    """A file without GGUF's magic number."""

    def __init__(self) -> None:
        super().__init__("supplied file was not in GGUF format")


class DamagedGguf(UnusableGguf):
    """A GGUF file whose header is wrong, or which ends before its tensors do."""


def _alignment(metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment")
    return value if isinstance(value, int) and value > 0 else _ALIGNMENT


def read_weights(path: Path) -> Weights:
    """Read a GGUF file's header.

    Raises:
        NotGguf: it is not a GGUF file.
        DamagedGguf: its header is truncated or wrong, or its tensors end beyond the file.
        ValueError: it is empty.
        OSError: it cannot be read at all.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise NotGguf
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Header(data).read()
            except (struct.error, KeyError, IndexError, UnicodeDecodeError) as error:
                raise DamagedGguf("unexpected EOF or a wrong header in the GGUF file") from error


class _Header:
    """A cursor over the bytes of a GGUF header."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4

    def read(self) -> Weights:
        version = self._number(_U32)
        if version not in (2, 3):
            raise KeyError(version)
        tensor_count, pair_count = self._number(_U64), self._number(_U64)
        metadata: dict[str, Value] = {}
        pairs = []
        for _ in range(pair_count):
            start = self._at
            key, value = self._string(), self._value(self._number(_U32))
            pairs.append(Pair(key=key, start=start, end=self._at))
            if value is not None:
                metadata[key] = value
        tensors = tuple(self._tensor() for _ in range(tensor_count))
        weights = Weights(
            version=version,
            metadata=metadata,
            pairs=tuple(pairs),
            tensors=tensors,
            data_at=aligned(self._at, _alignment(metadata)),
        )
        self._require_whole(weights)
        return weights

    def _require_whole(self, weights: Weights) -> None:
        for tensor in weights.tensors:
            # A type that is not listed counts as empty, as in Ollama.
            values, size = _BLOCKS.get(tensor.type, (1, 0))
            end = weights.data_at + tensor.offset + prod(tensor.shape) // values * size
            if end > len(self._data):
                raise DamagedGguf(f'tensor "{tensor.name}" offset+size exceeds file size')

    def _number(self, form: struct.Struct) -> int:
        value: int = form.unpack_from(self._data, self._at)[0]
        self._at += form.size
        return value

    def _string(self) -> str:
        length = self._number(_U64)
        text = self._data[self._at : self._at + length].decode()
        self._at += length
        return text

    def _value(self, kind: int) -> Value | None:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(self._number(_U32), self._number(_U64))
        return self._number(_SCALARS[kind])

    def _array(self, kind: int, count: int) -> Value | None:
        if count <= _MAX_ARRAY_KEPT and kind != _ARRAY:
            items = [self._string() if kind == _STRING else self._value(kind) for _ in range(count)]
            return [item for item in items if isinstance(item, bool | int | float | str)]
        if kind == _STRING:
            self._skip_strings(count)
        elif kind == _ARRAY:
            for _ in range(count):
                self._array(self._number(_U32), self._number(_U64))
        else:
            self._at += count * _SCALARS[kind].size
        return None

    def _skip_strings(self, count: int) -> None:
        # A tokenizer has up to 262,144 words; local names make this loop twice as fast.
        unpack, data, at = _U64.unpack_from, self._data, self._at
        for _ in range(count):
            at += 8 + unpack(data, at)[0]
        self._at = at

    def _tensor(self) -> Tensor:
        name, rank = self._string(), self._number(_U32)
        shape = tuple(self._number(_U64) for _ in range(rank))
        kind, offset = self._number(_U32), self._number(_U64)
        return Tensor(name=name, shape=shape, type=kind, offset=offset)
