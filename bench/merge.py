"""Speed of merging an adapter into its base, against copying the merged file; and peak memory.

    python -m bench.merge [--model-dir DIR] [--base gemma3-270m] [--rank 16] [--repeats 7] [--json]

Merge and copies alternate, so that load on the machine affects all alike; each ends with an fsync.
The adapter is random and covers all linear layers. Memory is a child process's peak above its level
after the imports. It is compared with the base's largest tensor in F32, and with the largest one
that is merged.
"""

import argparse
import hashlib
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from math import prod
from multiprocessing.connection import Connection
from pathlib import Path

from bench.table import show
from embedded.bases import install_base
from embedded.session import model_dir
from pipeline.storage.files import hash_file
from pipeline.training.merging.merge import merge
from pipeline.weights.merge_plan import linear_layers, plan_merge
from pipeline.weights.merged_layout import lay_out
from pipeline.weights.model_file import read_model
from schemas.hosting import MergeOutcome, MergeSpec
from tests.models.random_weights import write_full_adapter

_MB = 1_000_000
_BLOCK_BYTES = 1 << 21


def run(spec: MergeSpec) -> MergeOutcome:
    """Merge, as the training process does."""
    return merge(spec, on_progress=lambda _: None, should_stop=lambda: False)


def copy(source: Path, target: Path) -> None:
    """Copy within the kernel."""
    shutil.copyfile(source, target)
    _sync(target)


def copy_hashed(source: Path, target: Path) -> None:
    """Copy through this process and hash, as merging does."""
    digest = hashlib.sha256()
    with source.open("rb") as old, target.open("wb") as new:
        while block := old.read(_BLOCK_BYTES):
            digest.update(block)
            new.write(block)
    _sync(target)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def measure_peak(spec: MergeSpec) -> float:
    """Return a fresh process's peak memory in megabytes, above its level after the imports."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_send_peak, args=(theirs, spec))
    child.start()
    peak: float = ours.recv()
    child.join()
    return peak


def _send_peak(pipe: Connection, spec: MergeSpec) -> None:
    before = _memory_bytes("VmRSS")
    run(spec)
    pipe.send((_memory_bytes("VmHWM") - before) / _MB)


def _memory_bytes(name: str) -> int:
    # Not getrusage: its peak starts at what the parent had when it started this process.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    begun, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - used


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model-dir", type=Path, default=model_dir())
    parser.add_argument("--base", default="gemma3-270m")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    base_gguf = install_base(options.base, options.model_dir)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapter = folder / "adapter.gguf"
        write_full_adapter(adapter, base_gguf, seed=1, rank=options.rank)
        spec = MergeSpec(
            job_id="bench_1",
            elder_id="bench",
            fence=1,
            base_gguf=base_gguf,
            adapter_gguf=adapter,
            adapter_sha256=hash_file(adapter),
            quantization="q8_0",
            work_dir=folder,
        )
        _speed(spec, folder, options.repeats, as_json=options.json)
        _memory(spec, options.repeats, as_json=options.json)


def _speed(spec: MergeSpec, folder: Path, repeats: int, *, as_json: bool) -> None:
    outcome = run(spec)
    source = folder / "source.gguf"
    outcome.path.replace(source)
    ways: dict[str, Callable[[], object]] = {
        "merge": lambda: run(spec),
        "plain copy": lambda: copy(source, folder / "copy.gguf"),
        "plain copy, hashed": lambda: copy_hashed(source, folder / "copy.gguf"),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    busy: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(repeats):
        # The first way changes, so that none always finds the disk idle.
        for way in list(ways)[number % 3 :] + list(ways)[: number % 3]:
            wall, cpu = _timed(ways[way])
            seconds[way].append(wall)
            busy[way].append(cpu)
    size = outcome.size_bytes / _MB
    speeds = {way: [size / wall for wall in walls] for way, walls in seconds.items()}
    show(f"MB/s, {size:.0f} MB", speeds, as_json=as_json)
    show("seconds", seconds, as_json=as_json)
    show("seconds of processor time", busy, as_json=as_json)
    ratios = {
        f"merge / {way}": [a / b for a, b in zip(speeds["merge"], speeds[way], strict=True)]
        for way in list(ways)[1:]
    }
    show("bytes a second, paired", ratios, as_json=as_json)


def _memory(spec: MergeSpec, repeats: int, *, as_json: bool) -> None:
    base = read_model(spec.base_gguf)
    layout = lay_out(base, spec.base_gguf.stat().st_size, linear_layers(base))
    peaks = [measure_peak(spec) for _ in range(repeats)]
    rows = {
        "peak beyond imports, MB": peaks,
        "planned peak of the whole process, MB": [
            plan_merge(spec.base_gguf, spec.quantization).peak_memory_bytes / _MB
        ],
    }
    for name, tensors in (
        ("largest tensor", layout.tensors),
        ("largest merged tensor", [t for t in layout.tensors if t.is_touched]),
    ):
        largest = max(4 * prod(tensor.shape) for tensor in tensors) / _MB
        rows[f"{name} in F32, MB"] = [largest]
        rows[f"peak / {name}"] = [peak / largest for peak in peaks]
    show("memory", rows, as_json=as_json)


if __name__ == "__main__":
    main()
