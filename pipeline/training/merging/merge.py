"""Merging: a base and an adapter become one GGUF file, which a host serves by itself.

Worker threads make the file's blocks; the calling thread writes and hashes them in order.
"""

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from pipeline.storage.files import hash_file
from pipeline.storage.folders import folder_written_whole
from pipeline.storage.manifests import sealed_files
from pipeline.training.merging.file_blocks import block_tasks, run_in_order
from pipeline.training.merging.low_rank import LowRankAdapter
from pipeline.training.merging.progress import MergeProgress, OnProgress
from pipeline.training.merging.quantizer import quantize_file, require_quantizer
from pipeline.training.merging.row_blocks import row_bytes
from pipeline.weights.gguf_file import Weights
from pipeline.weights.merged_layout import LEFT_OUT, MergedLayout, lay_out
from pipeline.weights.model_file import read_header, read_model
from schemas.errors import ArtefactCorrupt
from schemas.hosting import MERGED_FOLDER, MERGED_GGUF, MergeOutcome, MergeSpec

_MOST_THREADS = 8


def merge(
    spec: MergeSpec,
    *,
    on_progress: OnProgress,
    should_stop: Callable[[], bool],
    clock: Callable[[], float] = time.perf_counter,
) -> MergeOutcome:
    """Write `<work_dir>/merged/merged.gguf`, sealed: the base with the adapter in its weights.

    A tensor W [out, in] that the adapter changes becomes W + (alpha / rank) * B A, computed in F32
    and written in Q8_0, or in F16 if its rows are not a multiple of 32. All others are copied.
    With `q4_k_m`, llama.cpp's quantiser then makes the whole file smaller.

    `should_stop` is asked before every block. `clock` returns seconds.

    Raises:
        AdapterMismatch: the adapter belongs to another base; nothing was written.
        AdapterUnsupported: base or adapter cannot be merged; nothing was written.
        ArtefactCorrupt: a file is missing, damaged or not written completely.
        QuantizerFailed: llama.cpp's quantiser is missing or failed.
        DiskUnavailable: the disk is full or fails.
        JobCancelled: `should_stop` returned true.
    """
    begun = clock()
    base = read_model(spec.base_gguf)
    _check_adapter(spec)
    quantizer = require_quantizer(spec.quantizer) if spec.quantization == "q4_k_m" else None
    hashed: dict[str, str] = {}
    with LowRankAdapter(spec.adapter_gguf, base) as adapter:
        layout = _lay_out(spec, base, adapter)
        progress = MergeProgress(layout.size_bytes, on_progress, should_stop, clock)
        with folder_written_whole(spec.work_dir / MERGED_FOLDER, hashed) as folder:
            path = folder / MERGED_GGUF
            hashed[MERGED_GGUF] = _write(path, spec, base, adapter, layout, progress)
            _read_back(path, layout)
            if quantizer is not None:
                del hashed[MERGED_GGUF]  # The quantiser replaces the file.
                quantize_file(path, quantizer, progress.advance)
    path = spec.work_dir / MERGED_FOLDER / MERGED_GGUF
    return MergeOutcome(
        path=path,
        sha256=sealed_files(path.parent)[MERGED_GGUF],
        size_bytes=path.stat().st_size,
        touched_tensors=len(adapter.targets),
        tensors=len(layout.tensors),
        merge_seconds=clock() - begun,
    )


def _write(
    path: Path,
    spec: MergeSpec,
    base: Weights,
    adapter: LowRankAdapter,
    layout: MergedLayout,
    progress: MergeProgress,
) -> str:
    """Write the merged file; return the SHA-256 of its blocks, taken before they reach the disk."""
    digest = hashlib.sha256()
    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    with (
        spec.base_gguf.open("rb") as source,
        path.open("wb") as file,
        ThreadPoolExecutor(threads, "merge") as pool,
    ):
        checked = pool.submit(_check_base, spec)
        tasks = block_tasks(base, source, adapter, layout)
        with closing(run_in_order(pool, tasks, 2 * threads)) as blocks:
            for block in blocks:
                file.write(block)
                digest.update(block)
                progress.advance(len(block))
        checked.result()
    return digest.hexdigest()


def _lay_out(spec: MergeSpec, base: Weights, adapter: LowRankAdapter) -> MergedLayout:
    layout = lay_out(base, spec.base_gguf.stat().st_size, adapter.targets)
    for tensor in layout.tensors:
        if tensor.is_touched:
            row_bytes(tensor)  # Raises for a type that cannot be read.
    return layout


def _check_adapter(spec: MergeSpec) -> None:
    # Not set aside here: it lies in a sealed folder, which its owner sets aside as a whole.
    path = spec.adapter_gguf
    if not path.is_file() or hash_file(path) != spec.adapter_sha256:
        raise ArtefactCorrupt(f"{path.name} is missing or was changed; it must be built again")


def _check_base(spec: MergeSpec) -> None:
    if spec.base_sha256 is not None and hash_file(spec.base_gguf) != spec.base_sha256:
        raise ArtefactCorrupt("the base model's GGUF was changed; put the whole file back")


def _read_back(path: Path, layout: MergedLayout) -> None:
    """Raise ArtefactCorrupt unless the header and the size of the file are those of the layout."""
    found = read_header(path)
    placed = {t.name: (t.shape, t.type, t.offset) for t in layout.tensors}
    is_whole = (
        {t.name: (t.shape, t.type, t.offset) for t in found.tensors} == placed
        and tuple(t.name for t in found.tensors) == layout.names
        and not any(pair.key.startswith(LEFT_OUT) for pair in found.pairs)
        and (found.data_at, path.stat().st_size) == (layout.data_at, layout.size_bytes)
    )
    if not is_whole:
        raise ArtefactCorrupt("the merged GGUF was not written whole; it must be built again")
