"""Small files of weights for SmolLM2-135M: random adapters, and the base with one merged in."""

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

RANK, ALPHA = 4, 8.0
_Matrix = NDArray[np.float64]


def write_random_adapter(
    path: Path, seed: int, *, dtype: type[np.floating] = np.float32, width: int = 576
) -> None:
    """Write a LoRA for SmolLM2-135M that changes what it says, at random but repeatably."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for target, (a, b) in _random_pairs(seed, width).items():
        writer.add_tensor(f"{target}.lora_a", a.astype(dtype))
        writer.add_tensor(f"{target}.lora_b", b.astype(dtype))
    _finish(writer)


def write_merged(path: Path, base: Path, seed: int) -> None:
    """Write the base with the random adapter of a seed in it; what that touches is in Q8_0."""
    reader = gguf.GGUFReader(base)
    writer = gguf.GGUFWriter(path, "llama")
    for entry in reader.fields.values():
        if not entry.name.startswith("GGUF.") and entry.name != "general.architecture":
            kind, sub_type = entry.types[0], entry.types[-1] if len(entry.types) > 1 else None
            writer.add_key_value(entry.name, entry.contents(), kind, sub_type)
    pairs = _random_pairs(seed)
    eight_bits = gguf.GGMLQuantizationType.Q8_0
    for tensor in reader.tensors:
        if tensor.name not in pairs:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
            continue
        a, b = pairs[tensor.name]
        merged = gguf.dequantize(tensor.data, tensor.tensor_type) + (b @ a) * (ALPHA / RANK)
        data = gguf.quants.quantize(merged.astype(np.float32), eight_bits)
        writer.add_tensor(tensor.name, data, raw_dtype=eight_bits)
    _finish(writer)


def _random_pairs(seed: int, width: int = 576) -> dict[str, tuple[_Matrix, _Matrix]]:
    random = np.random.default_rng(seed)
    return {
        f"blk.{layer}.attn_output.weight": (
            random.normal(0, 0.5, (RANK, width)),
            random.normal(0, 0.02, (width, RANK)),
        )
        for layer in range(30)
    }


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
