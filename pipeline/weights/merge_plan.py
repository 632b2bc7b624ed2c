"""What a merge makes and what it takes, computed from headers before anything is written.

Owns the layout of the merged file: which tensors change, their new types and places. Reads no
weights, and needs neither gguf nor NumPy, so that every role can ask.
"""

import re
import shutil
from collections.abc import Collection
from math import prod
from pathlib import Path
from typing import Final

from pipeline.weights.gguf_file import Tensor, UnusableGguf, Weights, aligned, read_weights
from schemas.base import Frozen
from schemas.errors import AdapterUnsupported, ArtefactCorrupt, DiskFull
from schemas.training import Quantization

F16, Q8_0 = 1, 8
# Values and bytes of a block of Q8_0: 32 of one byte and a scale in F16.
Q8_0_VALUES, Q8_0_BYTES = 32, 34
# A GGUF with a template of its own and tools in it is not served with ours by Ollama from 0.30 on.
LEFT_OUT: Final = "tokenizer.chat_template"
FILE_TYPE: Final = "general.file_type"
# What `linear layers` are called by llama.cpp, in dense models.
_LINEAR = re.compile(r"blk\.\d+\.(attn|ffn)_\w+\.weight")
# Measured with two cores, others using them too; a machine with more is faster.
MERGED_WEIGHTS_PER_S = 40_000_000
COPIED_BYTES_PER_S = 200_000_000
QUANTIZED_WEIGHTS_PER_S = 20_000_000
# Interpreter, NumPy and the blocks under way, whatever the size of the base.
_WORKING_BYTES = 256 * 1024 * 1024
_QUANTIZER_BYTES_PER_WEIGHT = 6
_GIB = 1024**3


class PlacedTensor(Frozen):
    """A tensor of the merged file: where it comes from and where it goes.

    `source_at` is a place in the base's file; `offset` counts from where the new data begin. An
    untouched tensor keeps the bytes that follow it to the next one.
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
    """The merged file: `tensors` in the order of their data, `names` in the header's."""

    tensors: tuple[PlacedTensor, ...]
    names: tuple[str, ...]
    alignment: int
    data_at: int
    size_bytes: int

    @property
    def is_mostly_q8_0(self) -> bool:
        """Whether more than half of the weights are Q8_0."""
        weights = [(t.type, prod(t.shape)) for t in self.tensors]
        return 2 * sum(n for kind, n in weights if kind == Q8_0) > sum(n for _, n in weights)


class MergePlan(Frozen):
    """What a merge of a base with an adapter of all its linear layers takes."""

    size_bytes: int
    """Of the result; for `q4_k_m` an upper bound, the file before llama.cpp's quantiser."""
    touched_tensors: int
    tensors: int
    peak_memory_bytes: int
    seconds: float
    """Guessed from bytes and weights, at the rates named in this module."""
    disk_bytes: int
    """Taken at the worst moment on the data folder's disk; a host keeps a copy of its own."""


def plan_merge(base_gguf: Path, quantization: Quantization) -> MergePlan:
    """Compute what merging this base takes; raises ArtefactCorrupt, AdapterUnsupported."""
    base = read_model(base_gguf)
    linear = linear_layers(base)
    layout = lay_out(base, base_gguf.stat().st_size, linear)
    sizes = [prod(tensor.shape) for tensor in layout.tensors]
    touched = sum(n for n, t in zip(sizes, layout.tensors, strict=True) if t.is_touched)
    is_quantized = quantization == "q4_k_m"
    seconds = touched / MERGED_WEIGHTS_PER_S + layout.size_bytes / COPIED_BYTES_PER_S
    if is_quantized:
        seconds += sum(sizes) / QUANTIZED_WEIGHTS_PER_S
    memory = _WORKING_BYTES + 2 * layout.data_at
    if is_quantized:
        memory += max(sizes, default=0) * _QUANTIZER_BYTES_PER_WEIGHT
    return MergePlan(
        size_bytes=layout.size_bytes,
        touched_tensors=len(linear),
        tensors=len(layout.tensors),
        peak_memory_bytes=memory,
        seconds=round(seconds, 1),
        disk_bytes=layout.size_bytes * (2 if is_quantized else 1),
    )


def linear_layers(base: Weights) -> frozenset[str]:
    """Return the tensors that a LoRA on all linear layers touches."""
    return frozenset(
        t.name for t in base.tensors if len(t.shape) == 2 and _LINEAR.fullmatch(t.name)
    )


def check_room(plan: MergePlan, folder: Path) -> None:
    """Raise DiskFull unless the folder's disk has room for the merge.

    Meant for the moment before training: the job then waits for room instead of training first.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if free < plan.disk_bytes:
        raise DiskFull(
            f"a merged model needs {plan.disk_bytes / _GIB:.2f} GiB and the data folder's disk has "
            f"{free / _GIB:.2f} GiB free; free space and the work goes on by itself"
        )


def read_model(path: Path) -> Weights:
    """Read the header of a base model that is one whole GGUF file.

    Raises ArtefactCorrupt where it is missing or damaged, AdapterUnsupported where it is split.
    """
    weights = read_header(path)
    parts = weights.metadata.get("split.count")
    if isinstance(parts, int) and parts > 1:
        raise AdapterUnsupported(f"{path.name} is one of {parts} parts; join them to one GGUF file")
    return weights


def read_header(path: Path) -> Weights:
    """Read a GGUF file's header; raises ArtefactCorrupt where it is missing or damaged."""
    try:
        return read_weights(path)
    except FileNotFoundError as error:
        raise ArtefactCorrupt(f"{path.name} is missing; put it back") from error
    except (UnusableGguf, ValueError) as error:  # ValueError: an empty file cannot be mapped.
        raise ArtefactCorrupt(f"{path.name} is no whole GGUF file; put it back") from error


def lay_out(base: Weights, base_bytes: int, touched: Collection[str]) -> MergedLayout:
    """Place each tensor of the merged file.

    Touched tensors become Q8_0 whatever they were, F16 and F32 too: the base's own k-quants lose
    what was learnt, and Q8_0 keeps it. Rows that cannot be cut into blocks of 32 become F16.
    Everything else stays as it is.
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
        kind, size = _merged_form(tensor.shape)
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


def _merged_form(shape: tuple[int, ...]) -> tuple[int, int]:
    weights = prod(shape)
    if shape[0] % Q8_0_VALUES:
        return F16, 2 * weights
    return Q8_0, weights // Q8_0_VALUES * Q8_0_BYTES


def _header_bytes(base: Weights) -> int:
    # Magic, version and two counts; of a tensor its name, rank, shape, type and offset.
    pairs = sum(p.end - p.start for p in base.pairs if not p.key.startswith(LEFT_OUT))
    infos = sum(8 + len(t.name.encode()) + 4 + 8 * len(t.shape) + 4 + 8 for t in base.tensors)
    return 24 + pairs + infos
