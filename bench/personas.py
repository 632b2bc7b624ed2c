"""Many personas of one base for benchmarks: random adapters, and merged models made of them.

Their replies are noise. In size and in the tensors that they change they equal trained ones: rank
16 on all linear layers, and in a merged file the changed tensors in Q8_0.
"""

import shutil
from pathlib import Path

from pipeline.weights.model_file import read_model
from tests.models.random_weights import linear_shapes, merge_adapter, write_full_adapter


def write_adapters(folder: Path, base: Path, count: int) -> list[Path]:
    """Write `count` different random adapters of a base."""
    paths = [folder / f"adapter-{number}.gguf" for number in range(count)]
    for seed, path in enumerate(paths):
        write_full_adapter(path, base, seed)
    return paths


def write_merged(path: Path, base: Path) -> None:
    """Write the base with a random adapter merged in."""
    (adapter,) = write_adapters(path.parent, base, 1)
    merge_adapter(path, base, adapter)
    adapter.unlink()


def copy_as_another(source: Path, target: Path, base: Path, number: int) -> None:
    """Copy a merged file and change one weight, so that a host takes it for another model.

    It has the size and the loading time of a file that was merged itself.
    """
    shutil.copyfile(source, target)
    touched = linear_shapes(base)
    # Reads the header alone: gguf's own reader takes ten seconds for Gemma's vocabulary.
    merged = read_model(source)
    tensor = next(t for t in merged.tensors if t.name in touched)
    with target.open("r+b") as file:
        # Past the block's scale: changing that could make it NaN.
        file.seek(merged.data_at + tensor.offset + 2)
        file.write(bytes([number % 128]))
