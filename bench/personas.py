"""Many personas of one base for benchmarks: random adapters, and the base with one merged in.

What they say is noise. Their size, and which tensors they touch, are those of trained ones: rank
16 on all linear layers, and in a merged file the touched tensors in Q8_0.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

RANK, ALPHA = 16, 32.0
_LINEAR = tuple(
    f"{name}.weight"
    for name in (
        *("attn_q", "attn_k", "attn_v", "attn_output"),
        *("ffn_gate", "ffn_up", "ffn_down"),
    )
)
_MERGED_TYPE = gguf.GGMLQuantizationType.Q8_0


def write_adapters(folder: Path, base: Path, count: int) -> list[Path]:
    """Write `count` random adapters of a base, each another one."""
    reader = gguf.GGUFReader(base)
    paths = [folder / f"adapter-{number}.gguf" for number in range(count)]
    for seed, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, _architecture(reader))
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", ALPHA)
        for name, a, b in _matrices(reader, seed):
            writer.add_tensor(f"{name}.lora_a", a.astype(np.float16))
            writer.add_tensor(f"{name}.lora_b", b.astype(np.float16))
        _finish(writer)
    return paths


def write_merged(path: Path, base: Path) -> None:
    """Write the base with the first of its random adapters in it."""
    reader = gguf.GGUFReader(base)
    writer = gguf.GGUFWriter(path, _architecture(reader))
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind, *inner = field.types
            writer.add_key_value(field.name, field.contents(), kind, inner[-1] if inner else None)
    changes = {name: (b @ a) * (ALPHA / RANK) for name, a, b in _matrices(reader, seed=0)}
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if tensor.name in changes:
            whole = gguf.dequantize(data, kind) + changes[tensor.name]
            data, kind = gguf.quants.quantize(whole, _MERGED_TYPE), _MERGED_TYPE
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    _finish(writer)


def copy_as_another(source: Path, target: Path, number: int) -> None:
    """Copy a merged file with one weight changed: a host takes it for another model.

    As large, and as long to load, as if it had been merged itself.
    """
    shutil.copyfile(source, target)
    tensor = next(t for t in gguf.GGUFReader(source).tensors if t.name.endswith(_LINEAR))
    with target.open("r+b") as file:
        # Past a block's scale, whose change could make it no number.
        file.seek(int(tensor.data_offset) + 2)
        file.write(bytes([number % 128]))


def _matrices(
    reader: gguf.GGUFReader, seed: int
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    random = np.random.default_rng(seed)
    for tensor in reader.tensors:
        if tensor.name.startswith("blk.") and tensor.name.endswith(_LINEAR):
            columns, rows = (int(size) for size in tensor.shape)
            a = random.normal(0, 0.02, (RANK, columns)).astype(np.float32)
            b = random.normal(0, 0.02, (rows, RANK)).astype(np.float32)
            yield tensor.name, a, b


def _architecture(reader: gguf.GGUFReader) -> str:
    return str(reader.fields["general.architecture"].contents())


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
