"""GGUF files of a few kilobytes: a base of any tensor type, and adapters for it."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind

Half = npt.NDArray[np.float16]
TARGET = "blk.0.attn_q.weight"
ROWS, COLUMNS, VOCABULARY = 200, 512, 96
RANK, ALPHA = 4, 6.0
# Offsets of the scales in a block, in halves, for types that the gguf package cannot write.
_SCALES = {Kind.Q4_K: (0, 1), Kind.Q5_K: (0, 1), Kind.Q6_K: (104,), Kind.IQ4_XS: (0,)}


def write_base(
    path: Path,
    kind: Kind,
    *,
    columns: int = COLUMNS,
    other_rows: int = 8,
    alignment: int = 32,
    has_output: bool = False,
    parts: int = 1,
) -> Path:
    """Write a base whose TARGET is of this type; other tensors are F16 or F32."""
    random = np.random.default_rng(5)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    writer.add_block_count(1)
    writer.add_file_type(2)
    writer.add_token_list([f"word{n}" for n in range(VOCABULARY)])
    writer.add_array("test.numbers", [1, 2, 3])
    writer.add_chat_template(
        [{"name": "default", "template": "x"}, {"name": "tool_use", "template": "y"}]
    )
    if parts > 1:
        writer.add_uint16("split.count", parts)
    _add(writer, "token_embd.weight", random.normal(size=(VOCABULARY, columns)), Kind.F32)
    if kind in _SCALES:
        writer.add_tensor(TARGET, _random_blocks(kind, columns), raw_dtype=kind)
    else:
        _add(writer, TARGET, random.normal(0, 0.1, (ROWS, columns)), kind)
    _add(writer, "blk.0.ffn_up.weight", random.normal(size=(other_rows, 64)), Kind.F16)
    # An odd number of values, so that padding follows it.
    _add(writer, "output_norm.weight", random.normal(size=(columns - 1,)), Kind.F32)
    if has_output:
        _add(writer, "output.weight", random.normal(size=(VOCABULARY, columns)), Kind.F16)
    return _finish(writer, path)


def pair(rows: int = ROWS, columns: int = COLUMNS) -> tuple[Half, Half]:
    """Return A [rank, columns] and B [rows, rank] of a linear layer."""
    random = np.random.default_rng(9)
    a, b = random.normal(size=(RANK, columns)), random.normal(0, 0.1, (rows, RANK))
    return a.astype(np.float16), b.astype(np.float16)


def embedding_pair() -> tuple[Half, Half]:
    """Return A [vocabulary, rank] and B [columns, rank] of the embedding."""
    b, a = pair(rows=VOCABULARY)
    return a, np.ascontiguousarray(b.T)


def write_adapter(
    path: Path,
    targets: dict[str, tuple[Half, Half]],
    *,
    architecture: str = "llama",
    alpha: float = ALPHA,
) -> Path:
    """Write a GGUF LoRA."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, (a, b) in targets.items():
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    return _finish(writer, path)


def change_a_bit(path: Path) -> None:
    """Flip one bit two thirds into a file."""
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    path.write_bytes(content)


def _add(writer: Any, name: str, values: npt.NDArray[np.float64], kind: Kind) -> None:
    data = gguf.quants.quantize(values.astype(np.float32), kind)
    writer.add_tensor(name, data, raw_dtype=kind)


def _random_blocks(kind: Kind, columns: int) -> npt.NDArray[np.uint8]:
    values, size = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(7)
    blocks = random.integers(0, 256, (ROWS * columns // values, size)).astype(np.uint8)
    scales = random.uniform(0.001, 0.01, (len(blocks), 2)).astype(np.float16)
    for number, place in enumerate(_SCALES[kind]):
        blocks[:, 2 * place : 2 * place + 2] = scales[:, number : number + 1].view(np.uint8)
    return blocks.reshape(ROWS, -1)


def _finish(writer: Any, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
