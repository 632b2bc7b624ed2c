"""Rows of a quantised tensor: dequantised, merged with an adapter and quantised again.

The gguf package does the arithmetic. It allocates a dozen temporary arrays per call, which is fast
only while they fit the allocator's free lists and the CPU's cache: so a few rows at a time.
"""

from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind

from pipeline.training.merging.low_rank import LowRank
from pipeline.weights.merged_layout import Q8_0_BYTES, PlacedTensor
from schemas.errors import AdapterUnsupported, ArtefactCorrupt

Bytes = npt.NDArray[np.uint8]
# 64 KiB of F32. With four times as many, each weight takes up to 2.5 times as long.
_WEIGHTS_AT_ONCE = 1 << 14


def row_bytes(tensor: PlacedTensor) -> int:
    """Return the bytes of one row of the tensor in the base's file.

    Raises AdapterUnsupported for a type that cannot be read, ArtefactCorrupt for a damaged base.
    """
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
    """Return the gguf package's class that reads and writes a type; None for plain floats.

    Its lookup tables are built here, since building them is not safe in several threads.
    """
    if kind in (Kind.F32, Kind.F16):
        return None
    found = getattr(gguf.quants, kind.name)
    found.init_grid()
    return found


def merge_rows(raw: bytes, tensor: PlacedTensor, added: LowRank, first: int) -> Bytes:
    """Return merged rows as [rows, bytes of a merged row] uint8.

        merged = quantize(dequantize(base) + left @ right), computed in F32

    `raw` are the bytes of the base's rows from number `first` on. Raises ArtefactCorrupt if base
    or adapter hold infinities or NaN.
    """
    columns = tensor.shape[0]
    source = np.frombuffer(raw, np.uint8).reshape(-1, row_bytes(tensor))
    step = max(1, _WEIGHTS_AT_ONCE // columns)
    merged = np.empty((len(source), tensor.size_bytes // tensor.shape[1]), np.uint8)
    # Infinities of a damaged base must not warn here: `_quantize` refuses them.
    with np.errstate(all="ignore"):
        for at in range(0, len(source), step):
            end = min(at + step, len(source))
            rows = added.left[first + at : first + end] @ added.right
            np.add(_dequantize(source[at:end], tensor.source_type), rows, out=rows)
            merged[at:end] = _quantize(rows, tensor)
    return merged


def _dequantize(raw: Bytes, source_type: int) -> npt.NDArray[Any]:
    kind = Kind(source_type)
    if kind == Kind.F32:
        return raw.view(np.float32)
    if kind == Kind.F16:
        return raw.view(np.float16)
    values: npt.NDArray[Any] = codec(kind).dequantize_rows(raw)
    return values


def _quantize(rows: npt.NDArray[np.float32], tensor: PlacedTensor) -> Bytes:
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
