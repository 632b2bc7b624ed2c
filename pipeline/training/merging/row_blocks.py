"""Rows of a quantised tensor: read as F32, changed, and quantised again, a few at a time.

The gguf package does the arithmetic. It allocates a dozen temporary arrays a call, and those are
fast while they stay small enough for the allocator's free lists and the processor's cache.
"""

from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind

from pipeline.training.merging.low_rank import LowRank
from pipeline.weights.merge_plan import Q8_0_BYTES, PlacedTensor
from schemas.errors import AdapterUnsupported, ArtefactCorrupt

Bytes = npt.NDArray[np.uint8]
# 64 KiB of F32: four times as many take four to ten times as long.
_WEIGHTS_AT_ONCE = 1 << 14


def row_bytes(tensor: PlacedTensor) -> int:
    """How long a row of the base's tensor is; raises AdapterUnsupported, ArtefactCorrupt."""
    try:
        kind = Kind(tensor.source_type)
        values, size = gguf.GGML_QUANT_SIZES[kind]
        codec(kind)
    except (ValueError, KeyError, AttributeError) as error:
        raise AdapterUnsupported(
            f"{tensor.name} has type {tensor.source_type}, which cannot be read; use another GGUF "
            "of the base model"
        ) from error
    columns, rows = tensor.shape
    length: int = columns // values * size
    if columns % values or length * rows > tensor.source_bytes:
        raise ArtefactCorrupt("the base model's GGUF is damaged; put the whole file back")
    return length


def codec(kind: Kind) -> Any:
    """The class of the gguf package that reads and writes a type; prepared for threads."""
    if kind in (Kind.F32, Kind.F16):
        return None
    found = getattr(gguf.quants, kind.name)
    found.init_grid()
    return found


def merge_rows(raw: bytes, tensor: PlacedTensor, added: LowRank, first: int) -> Bytes:
    """Return rows of the merged tensor; `raw` are the base's, from row `first` on."""
    columns = tensor.shape[0]
    source = np.frombuffer(raw, np.uint8).reshape(-1, row_bytes(tensor))
    step = max(1, _WEIGHTS_AT_ONCE // columns)
    merged = np.empty((len(source), tensor.size_bytes // tensor.shape[1]), np.uint8)
    # A damaged base may hold infinities; they are found below.
    with np.errstate(all="ignore"):
        for at in range(0, len(source), step):
            end = min(at + step, len(source))
            rows = added.left[first + at : first + end] @ added.right
            np.add(_read(source[at:end], tensor.source_type), rows, out=rows)
            merged[at:end] = _written(rows, tensor)
    return merged


def _read(raw: Bytes, source_type: int) -> npt.NDArray[Any]:
    kind = Kind(source_type)
    if kind == Kind.F32:
        return raw.view(np.float32)
    if kind == Kind.F16:
        return raw.view(np.float16)
    values: npt.NDArray[Any] = codec(kind).dequantize_rows(raw)
    return values


def _written(rows: npt.NDArray[np.float32], tensor: PlacedTensor) -> Bytes:
    if Kind(tensor.type) == Kind.F16:
        halves = rows.astype(np.float16)
        written, scales = halves.view(np.uint8), halves
    else:
        written = gguf.quants.Q8_0.quantize_rows(rows)
        scales = np.ascontiguousarray(written.reshape(-1, Q8_0_BYTES)[:, :2]).view(np.float16)
    if not np.isfinite(scales).all():
        raise ArtefactCorrupt(
            f"{tensor.name}: the base or the adapter holds what is no number; put the whole base "
            "back, or train again"
        )
    return written
