"""The merged file as a stream of blocks: the header, merged tensors and copied ones, in order.

Blocks are read by offset and not mapped into memory: memory use stays flat, and a base that is
truncated meanwhile raises an error instead of killing the process with SIGBUS. Several threads make
blocks at once, since NumPy releases the interpreter lock.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import BinaryIO

from pipeline.training.merging.header import header_bytes
from pipeline.training.merging.low_rank import LowRank, LowRankAdapter, read_at
from pipeline.training.merging.row_blocks import merge_rows, row_bytes
from pipeline.weights.gguf_file import Weights
from pipeline.weights.merged_layout import MergedLayout, PlacedTensor

Block = memoryview | bytes
Task = Callable[[], Block]
"""Makes one block, in any thread."""
# A merged block is about half a megabyte of Q8_0; copied ones are larger.
_MERGED_BLOCK_WEIGHTS = 1 << 19
_COPIED_BLOCK_BYTES = 1 << 21


def block_tasks(
    base: Weights, source: BinaryIO, adapter: LowRankAdapter, layout: MergedLayout
) -> Iterator[Task]:
    """Yield a task for each block of the merged file, in the file's order.

    `source` is the base's open file.
    """
    yield partial(header_bytes, base, source, layout)
    at = 0
    for tensor in layout.tensors:
        yield partial(bytes, tensor.offset - at)
        if tensor.is_touched:
            yield from _merged_tensor(source.fileno(), tensor, adapter.read(tensor.name))
        else:
            yield from _copied_tensor(source.fileno(), tensor)
        at = tensor.offset + tensor.size_bytes
    yield partial(bytes, layout.size_bytes - layout.data_at - at)


def _copied_tensor(descriptor: int, tensor: PlacedTensor) -> Iterator[Task]:
    for at in range(0, tensor.size_bytes, _COPIED_BLOCK_BYTES):
        count = min(_COPIED_BLOCK_BYTES, tensor.size_bytes - at)
        yield partial(read_at, descriptor, count, tensor.source_at + at)


def _merged_tensor(descriptor: int, tensor: PlacedTensor, added: LowRank) -> Iterator[Task]:
    columns, rows = tensor.shape
    step, length = max(1, _MERGED_BLOCK_WEIGHTS // columns), row_bytes(tensor)
    for first in range(0, rows, step):
        count = min(step, rows - first) * length
        yield partial(_merge_block, descriptor, count, tensor, added, first)


def _merge_block(
    descriptor: int, count: int, tensor: PlacedTensor, added: LowRank, first: int
) -> memoryview:
    raw = read_at(descriptor, count, tensor.source_at + first * row_bytes(tensor))
    return merge_rows(raw, tensor, added, first).data.cast("B")


def run_in_order(pool: ThreadPoolExecutor, tasks: Iterator[Task], ahead: int) -> Generator[Block]:
    """Run tasks in the pool, at most `ahead` beyond the block in hand; yield blocks in order."""
    waiting: deque[Future[Block]] = deque()
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
