"""Many personas of one base for benchmarks: random adapters, and the base with one merged in.

What they say is noise. Their size, and which tensors they touch, are those of trained ones: rank
16 on all linear layers, and in a merged file the touched tensors in Q8_0.
"""

import shutil
from pathlib import Path

from pipeline.weights.model_file import read_model
from tests.models.random_weights import linear_shapes, merge_adapter, write_full_adapter


def write_adapters(folder: Path, base: Path, count: int) -> list[Path]:
    """Write `count` random adapters of a base, each another one."""
    paths = [folder / f"adapter-{number}.gguf" for number in range(count)]
    for seed, path in enumerate(paths):
        write_full_adapter(path, base, seed)
    return paths


def write_merged(path: Path, base: Path) -> None:
    """Write the base with the first of its random adapters in it."""
    (adapter,) = write_adapters(path.parent, base, 1)
    merge_adapter(path, base, adapter)
    adapter.unlink()


def copy_as_another(source: Path, target: Path, base: Path, number: int) -> None:
    """Copy a merged file with one weight changed: a host takes it for another model.

    As large, and as long to load, as if it had been merged itself.
    """
    shutil.copyfile(source, target)
    touched = linear_shapes(base)
    # The header alone: gguf's own reader takes ten seconds over Gemma's words.
    merged = read_model(source)
    tensor = next(t for t in merged.tensors if t.name in touched)
    with target.open("r+b") as file:
        # Past a block's scale, whose change could make it no number.
        file.seek(merged.data_at + tensor.offset + 2)
        file.write(bytes([number % 128]))
