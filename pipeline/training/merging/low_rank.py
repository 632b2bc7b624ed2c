"""The low-rank matrices that an adapter adds to a base's tensors, read from a GGUF LoRA."""

import os
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pipeline.weights.adapter_fit import UnfitAdapter, require_fit
from pipeline.weights.gguf_file import Tensor, Weights
from pipeline.weights.model_file import read_header
from schemas.errors import AdapterMismatch, AdapterUnsupported, ArtefactCorrupt

Matrix = npt.NDArray[np.float32]
_TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<f2")}
EMBEDDING = "token_embd.weight"
_OUTPUT = "output.weight"


class LowRank(NamedTuple):
    """What an adapter adds to one tensor of [rows, columns]: `left @ right`, in F32.

    For a linear layer that is (alpha / rank) * B A, with the scale in `left`.
    """

    left: Matrix
    """[rows, rank]."""
    right: Matrix
    """[rank, columns]."""


def read_at(descriptor: int, count: int, offset: int) -> bytes:
    """Read exactly `count` bytes at a byte offset; raises ArtefactCorrupt for a shorter file.

    Does not move the file's position, so that several threads may share the descriptor.
    """
    parts: list[bytes] = []
    while count:
        part = os.pread(descriptor, count, offset)
        if not part:
            raise ArtefactCorrupt("a GGUF is shorter than its header says; put the whole file back")
        parts.append(part)
        count, offset = count - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class LowRankAdapter:
    """An open GGUF LoRA that fits its base."""

    def __init__(self, path: Path, base: Weights) -> None:
        """Read the adapter's header; `base` is that of its base.

        Raises AdapterMismatch, AdapterUnsupported and ArtefactCorrupt.
        """
        header = read_header(path)
        try:
            require_fit(header, base)
        except UnfitAdapter as error:
            raise AdapterMismatch(f"{error}; train the adapter again") from error
        self._tensors = {tensor.name: tensor for tensor in header.tensors}
        self.targets = frozenset(name.rpartition(".lora_")[0] for name in self._tensors)
        _require_supported(header, self.targets, base)
        alpha = header.metadata.get("adapter.lora.alpha")
        self._alpha = float(alpha) if isinstance(alpha, int | float) else 0.0
        self._data_at = header.data_at
        self._file = path.open("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, target: str) -> LowRank:
        """Read what is added to a tensor of the base, scaled as llama.cpp scales it.

        That is by alpha / rank, or by 1 if the adapter names no alpha or 0.
        """
        a, b = self._matrix(f"{target}.lora_a"), self._matrix(f"{target}.lora_b")
        rank = b.shape[1]
        # An embedding is looked up, not multiplied: A is [vocabulary, rank], B [width, rank].
        left, right = (a, b.T) if target == EMBEDDING else (b, a)
        scale = self._alpha / rank if self._alpha else 1.0
        return LowRank(left * np.float32(scale), np.ascontiguousarray(right))

    def _matrix(self, name: str) -> Matrix:
        tensor: Tensor = self._tensors[name]
        columns, rows = tensor.shape
        kind = _TYPES[tensor.type]
        offset = self._data_at + tensor.offset
        raw = read_at(self._file.fileno(), columns * rows * kind.itemsize, offset)
        return np.frombuffer(raw, kind).reshape(rows, columns).astype(np.float32)


def _require_supported(header: Weights, targets: frozenset[str], base: Weights) -> None:
    if header.metadata.get("adapter.type", "lora") != "lora" or not targets:
        raise AdapterUnsupported("the adapter is no LoRA; only those can be merged")
    names = {tensor.name for tensor in base.tensors}
    if EMBEDDING in targets and _OUTPUT not in names:
        raise AdapterUnsupported(
            "the base's output layer is its embedding, and an adapter of one would change both; "
            "train without the embedding"
        )
