"""Base and adapter as one GGUF file, written tensor by tensor.

Both are read by place and in blocks, not mapped: memory stays flat and a file that is cut short
under our hands is an error, not a fault of the processor. Blocks are merged by several threads
(NumPy lets go of the interpreter) and written and hashed in order by this one.
"""

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pipeline.storage.files import folder_written_whole, hash_file, sealed_files
from pipeline.training.merging.header import header_bytes
from pipeline.training.merging.low_rank import LowRank, LowRankAdapter, read_at
from pipeline.training.merging.quantizer import quantize_file, require_quantizer
from pipeline.training.merging.row_blocks import merge_rows, row_bytes
from pipeline.weights.gguf_file import Weights
from pipeline.weights.merge_plan import (
    LEFT_OUT,
    MergedLayout,
    PlacedTensor,
    lay_out,
    read_header,
    read_model,
)
from schemas.errors import ArtefactCorrupt, JobCancelled
from schemas.hosting import MERGED_FOLDER, MERGED_GGUF, MergeOutcome, MergeSpec
from schemas.training import TrainingProgress

OnProgress = Callable[[TrainingProgress], None]
_Task = Callable[[], memoryview | bytes]
# A block is half a megabyte of Q8_0 or so; what is copied goes in larger ones.
_WEIGHTS_A_BLOCK = 1 << 19
_COPIED_BLOCK_BYTES = 1 << 21
_MOST_THREADS = 8
_TOLD_EVERY_S = 0.25
_MIB = 1024 * 1024


def merge(
    spec: MergeSpec,
    *,
    on_progress: OnProgress,
    should_stop: Callable[[], bool],
    clock: Callable[[], float] = time.perf_counter,
) -> MergeOutcome:
    """Write `<work_dir>/merged/merged.gguf`, sealed: the base with the adapter in its weights.

    A tensor that the adapter changes is W + (alpha / rank) · B A, computed in F32 and written in
    Q8_0, or in F16 where its rows are no multiple of 32; the others are copied. With `q4_k_m`
    llama.cpp's quantiser then makes the whole file smaller.

    Raises AdapterMismatch for an adapter of another base and AdapterUnsupported for what cannot
    be merged, both before anything is written; ArtefactCorrupt, QuantizerFailed, DiskUnavailable,
    and JobCancelled when `should_stop` says so.
    """
    begun = clock()
    base = read_model(spec.base_gguf)
    _check_adapter(spec)
    quantizer = require_quantizer(spec.quantizer) if spec.quantization == "q4_k_m" else None
    hashed: dict[str, str] = {}
    with LowRankAdapter(spec.adapter_gguf, base) as adapter:
        layout = _lay_out(spec, base, adapter)
        watch = _Watch(layout.size_bytes, on_progress, should_stop, clock)
        with folder_written_whole(spec.work_dir / MERGED_FOLDER, hashed) as folder:
            path = folder / MERGED_GGUF
            hashed[MERGED_GGUF] = _write(path, spec, base, adapter, layout, watch)
            _read_back(path, layout)
            if quantizer is not None:
                del hashed[MERGED_GGUF]  # Of a file that is replaced.
                quantize_file(path, quantizer, watch.look)
    path = spec.work_dir / MERGED_FOLDER / MERGED_GGUF
    return MergeOutcome(
        path=path,
        sha256=sealed_files(path.parent)[MERGED_GGUF],
        size_bytes=path.stat().st_size,
        touched_tensors=len(adapter.targets),
        tensors=len(layout.tensors),
        merge_seconds=clock() - begun,
    )


class _Watch:
    """Tells how far a merge is, and stops it."""

    def __init__(
        self,
        total_bytes: int,
        on_progress: OnProgress,
        should_stop: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._total = total_bytes
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._clock = clock
        self._begun = clock()
        self._told = float("-inf")
        self._written = 0

    def look(self, written: int = 0) -> None:
        """Note more bytes; raises JobCancelled. Steps are mebibytes."""
        self._written += written
        if self._should_stop():
            raise JobCancelled
        now = self._clock()
        if now - self._told < _TOLD_EVERY_S and self._written < self._total:
            return
        self._told = now
        left = self._total - self._written
        eta = (now - self._begun) * left / self._written if self._written else None
        self._on_progress(
            TrainingProgress(
                stage="converting",
                step=self._written // _MIB,
                total_steps=self._total // _MIB,
                epoch=0,
                total_epochs=0,
                eta_seconds=eta,
            )
        )


def _write(
    path: Path,
    spec: MergeSpec,
    base: Weights,
    adapter: LowRankAdapter,
    layout: MergedLayout,
    watch: _Watch,
) -> str:
    """Write the file; return the hash of what was to be written."""
    digest = hashlib.sha256()
    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    with (
        spec.base_gguf.open("rb") as source,
        path.open("wb") as file,
        ThreadPoolExecutor(threads, "merge") as pool,
    ):
        checked = pool.submit(_check_base, spec)
        tasks = _tasks(base, source, adapter, layout)
        with closing(_in_order(pool, tasks, 2 * threads)) as blocks:
            for block in blocks:
                file.write(block)
                digest.update(block)
                watch.look(len(block))
        checked.result()
    return digest.hexdigest()


def _lay_out(spec: MergeSpec, base: Weights, adapter: LowRankAdapter) -> MergedLayout:
    layout = lay_out(base, spec.base_gguf.stat().st_size, adapter.targets)
    for tensor in layout.tensors:
        if tensor.is_touched:
            row_bytes(tensor)  # Refuses a type that cannot be read.
    return layout


def _check_adapter(spec: MergeSpec) -> None:
    # Its sealed folder is its owner's, who sets it aside as a whole.
    path = spec.adapter_gguf
    if not path.is_file() or hash_file(path) != spec.adapter_sha256:
        raise ArtefactCorrupt(f"{path.name} is missing or was changed; it must be built again")


def _check_base(spec: MergeSpec) -> None:
    if spec.base_sha256 is not None and hash_file(spec.base_gguf) != spec.base_sha256:
        raise ArtefactCorrupt("the base model's GGUF was changed; put the whole file back")


def _tasks(
    base: Weights, source: BinaryIO, adapter: LowRankAdapter, layout: MergedLayout
) -> Iterator[_Task]:
    """What gives the file's bytes, piece by piece and in order."""
    yield partial(header_bytes, base, source, layout)
    at = 0
    for tensor in layout.tensors:
        yield partial(bytes, tensor.offset - at)
        if tensor.is_touched:
            yield from _merged(source.fileno(), tensor, adapter.read(tensor.name))
        else:
            yield from _copied(source.fileno(), tensor)
        at = tensor.offset + tensor.size_bytes
    yield partial(bytes, layout.size_bytes - layout.data_at - at)


def _copied(descriptor: int, tensor: PlacedTensor) -> Iterator[_Task]:
    for at in range(0, tensor.size_bytes, _COPIED_BLOCK_BYTES):
        count = min(_COPIED_BLOCK_BYTES, tensor.size_bytes - at)
        yield partial(read_at, descriptor, count, tensor.source_at + at)


def _merged(descriptor: int, tensor: PlacedTensor, added: LowRank) -> Iterator[_Task]:
    columns, rows = tensor.shape
    step, length = max(1, _WEIGHTS_A_BLOCK // columns), row_bytes(tensor)
    for first in range(0, rows, step):
        count = min(step, rows - first) * length
        yield partial(_merge_block, descriptor, count, tensor, added, first)


def _merge_block(
    descriptor: int, count: int, tensor: PlacedTensor, added: LowRank, first: int
) -> memoryview:
    raw = read_at(descriptor, count, tensor.source_at + first * row_bytes(tensor))
    return merge_rows(raw, tensor, added, first).data.cast("B")


def _in_order(
    pool: ThreadPoolExecutor, tasks: Iterator[_Task], ahead: int
) -> Generator[memoryview | bytes]:
    """Run tasks in the pool, a few ahead; yield their results in order."""
    waiting: deque[Future[memoryview | bytes]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _read_back(path: Path, layout: MergedLayout) -> None:
    """Compare the header on the disk, and the file's size, with what was to be written."""
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
