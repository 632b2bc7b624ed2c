"""Random LoRA adapters for tests and benchmarks, and a base with one merged in."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

from pipeline.storage.files import hash_file
from pipeline.training.merging.merge import merge
from pipeline.weights.merge_plan import linear_layers
from pipeline.weights.model_file import read_model
from schemas.hosting import MergeSpec

Shape = tuple[int, int]
"""Of a matrix in GGUF's order: columns, rows."""
_SMOLLM2_LAYERS, _SMOLLM2_WIDTH = 30, 576


def write_adapter(
    path: Path,
    targets: Mapping[str, Shape],
    seed: int,
    *,
    rank: int,
    architecture: str = "llama",
    spread: tuple[float, float] = (0.02, 0.02),
    dtype: type[np.floating] = np.float16,
) -> None:
    """Write a random LoRA of these tensors, the same for the same seed; alpha is twice the rank.

    `spread` is the standard deviation in A and in B.
    """
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0 * rank)
    for name, (columns, rows) in targets.items():
        for part, shape, width in zip(
            ("lora_a", "lora_b"), ((rank, columns), (rows, rank)), spread, strict=True
        ):
            writer.add_tensor(f"{name}.{part}", random.normal(0, width, shape).astype(dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_full_adapter(path: Path, base: Path, seed: int, *, rank: int = 16) -> None:
    """Write a LoRA of all linear layers of a base, in F16, as large as a trained one."""
    weights = read_model(base)
    write_adapter(path, linear_shapes(base), seed, rank=rank, architecture=weights.architecture)


def linear_shapes(base: Path) -> dict[str, Shape]:
    """Return the shapes of a base's linear layers, by name."""
    weights = read_model(base)
    names = linear_layers(weights)
    return {t.name: (t.shape[0], t.shape[1]) for t in weights.tensors if t.name in names}


def write_random_adapter(
    path: Path, seed: int, *, dtype: type[np.floating] = np.float32, width: int = _SMOLLM2_WIDTH
) -> None:
    """Write a random LoRA for SmolLM2-135M that changes its answers, the same for the same seed."""
    names = [f"blk.{layer}.attn_output.weight" for layer in range(_SMOLLM2_LAYERS)]
    targets = dict.fromkeys(names, (width, width))
    write_adapter(path, targets, seed, rank=4, spread=(0.5, 0.02), dtype=dtype)


def write_merged(path: Path, base: Path, seed: int) -> None:
    """Write SmolLM2-135M merged with the random adapter of a seed, as a job does."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        adapter = Path(folder) / "adapter.gguf"
        write_random_adapter(adapter, seed)
        merge_adapter(path, base, adapter)


def merge_adapter(path: Path, base: Path, adapter: Path) -> None:
    """Merge a base and an adapter into one file; changed tensors are in Q8_0."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        spec = MergeSpec(
            job_id="any_1",
            elder_id="any",
            fence=1,
            base_gguf=base,
            adapter_gguf=adapter,
            adapter_sha256=hash_file(adapter),
            quantization="q8_0",
            work_dir=Path(folder),
        )
        outcome = merge(spec, on_progress=lambda _: None, should_stop=lambda: False)
        outcome.path.replace(path)
