"""The cost of a merge in disk space, memory and time, estimated before anything is written."""

import re
import shutil
from math import prod
from pathlib import Path

from pipeline.weights.gguf_file import Weights
from pipeline.weights.merged_layout import lay_out
from pipeline.weights.model_file import read_model
from schemas.base import Frozen
from schemas.errors import DiskFull
from schemas.training import Quantization

# llama.cpp's names of the linear layers in a model without experts.
_LINEAR = re.compile(r"blk\.\d+\.(attn|ffn)_\w+\.weight")
# Measured on two busy cores; more cores are faster.
MERGED_WEIGHTS_PER_S = 40_000_000
COPIED_BYTES_PER_S = 200_000_000
QUANTIZED_WEIGHTS_PER_S = 20_000_000
# Interpreter, NumPy and the blocks in flight: the same for every base.
_WORKING_BYTES = 256 * 1024 * 1024
_QUANTIZER_BYTES_PER_WEIGHT = 6
_GIB = 1024**3


class MergePlan(Frozen):
    """What merging a base with an adapter of all its linear layers takes."""

    size_bytes: int
    """The merged file's size; for `q4_k_m` an upper bound: its size before the quantiser runs."""
    touched_tensors: int
    tensors: int
    peak_memory_bytes: int
    seconds: float
    """Estimated from bytes and weights at the rates named in this module."""
    disk_bytes: int
    """The most that the data folder's disk needs at a time, without the host's own copy."""


def plan_merge(base_gguf: Path, quantization: Quantization) -> MergePlan:
    """Estimate what merging this base takes; raises ArtefactCorrupt and AdapterUnsupported."""
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
    """Return the names of the tensors that a LoRA on all linear layers changes."""
    return frozenset(
        t.name for t in base.tensors if len(t.shape) == 2 and _LINEAR.fullmatch(t.name)
    )


def check_disk_space(plan: MergePlan, folder: Path) -> None:
    """Raise DiskFull unless the folder's disk has space for the merge.

    The folder need not exist yet. Called before training, so that the job waits for space instead
    of failing after hours.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if free < plan.disk_bytes:
        raise DiskFull(
            f"a merged model needs {plan.disk_bytes / _GIB:.2f} GiB and the data folder's disk has "
            f"{free / _GIB:.2f} GiB free; free space and the work goes on by itself"
        )
