"""The layout of a merged file: which tensors change, their new types and their places.

Computed from headers alone, without gguf and NumPy, so that every role can use it.
"""

from collections.abc import Collection
from math import prod
from typing import Final

from pipeline.weights.gguf_file import Tensor, Weights, aligned
from schemas.base import Frozen
from schemas.errors import ArtefactCorrupt

# Tensor types (ggml_type).
F16, Q8_0 = 1, 8
# A block of Q8_0: 32 weights of one byte each, and one scale in F16.
Q8_0_VALUES, Q8_0_BYTES = 32, 34
# Metadata keys with this prefix are left out: since 0.30, Ollama prefers a chat template with tools
# inside a GGUF file to the template that it is given.
LEFT_OUT: Final = "tokenizer.chat_template"
FILE_TYPE: Final = "general.file_type"


class PlacedTensor(Frozen):
    """A tensor of the merged file: where it comes from and where it goes.

    `shape` is in GGUF's order, columns first. `source_at` is a byte offset in the base's file,
    `offset` one from the beginning of the merged file's tensor data. `source_bytes` includes the
    padding that follows the tensor in the base; an untouched tensor is copied with it.
    """

    name: str
    shape: tuple[int, ...]
    is_touched: bool
    source_type: int
    source_at: int
    source_bytes: int
    type: int
    offset: int
    size_bytes: int


class MergedLayout(Frozen):
    """The merged file: `tensors` in the order of their data, `names` in that of the header.

    The tensor data begin at byte `data_at`.
    """

    tensors: tuple[PlacedTensor, ...]
    names: tuple[str, ...]
    alignment: int
    data_at: int
    size_bytes: int

    @property
    def is_mostly_q8_0(self) -> bool:
        """Whether more than half of the weights are in Q8_0."""
        weights = [(t.type, prod(t.shape)) for t in self.tensors]
        return 2 * sum(n for kind, n in weights if kind == Q8_0) > sum(n for _, n in weights)


def lay_out(base: Weights, base_bytes: int, touched: Collection[str]) -> MergedLayout:
    """Place each tensor of the merged file; `base_bytes` is the size of the base's file.

    `touched` names the tensors that the adapter changes. They become Q8_0 whatever their type was,
    F16 and F32 included: in the base's own k-quants what was learned is lost to rounding. If
    their rows cannot be divided into blocks of 32 they become F16. All others keep their type.
    """
    ordered = sorted(base.tensors, key=lambda tensor: tensor.offset)
    ends = [tensor.offset for tensor in ordered[1:]] + [base_bytes - base.data_at]
    placed, offset = [], 0
    for tensor, end in zip(ordered, ends, strict=True):
        one = _place(tensor, base.data_at, end - tensor.offset, offset, tensor.name in touched)
        placed.append(one)
        offset = aligned(offset + one.size_bytes, base.alignment)
    data_at = aligned(_header_bytes(base), base.alignment)
    return MergedLayout(
        tensors=tuple(placed),
        names=tuple(tensor.name for tensor in base.tensors),
        alignment=base.alignment,
        data_at=data_at,
        size_bytes=data_at + offset,
    )


def _place(tensor: Tensor, data_at: int, length: int, offset: int, touched: bool) -> PlacedTensor:
    if length <= 0:
        raise ArtefactCorrupt("the base model's GGUF is cut short; put the whole file back")
    kind, size = tensor.type, length
    if touched:
        kind, size = _merged_type(tensor.shape)
    return PlacedTensor(
        name=tensor.name,
        shape=tensor.shape,
        is_touched=touched,
        source_type=tensor.type,
        source_at=data_at + tensor.offset,
        source_bytes=length,
        type=kind,
        offset=offset,
        size_bytes=size,
    )


def _merged_type(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the type and the bytes of a touched tensor."""
    weights = prod(shape)
    if shape[0] % Q8_0_VALUES:
        return F16, 2 * weights
    return Q8_0, weights // Q8_0_VALUES * Q8_0_BYTES


def _header_bytes(base: Weights) -> int:
    # 24 for magic, version and two counts. A tensor's entry has its name, number of dimensions,
    # shape, type and offset.
    pairs = sum(p.end - p.start for p in base.pairs if not p.key.startswith(LEFT_OUT))
    infos = sum(8 + len(t.name.encode()) + 4 + 8 * len(t.shape) + 4 + 8 for t in base.tensors)
    return 24 + pairs + infos
