"""The adapter as files: peft safetensors, and a GGUF LoRA for llama.cpp and Ollama.

Ollama converts safetensors adapters of Llama and Gemma 2 alone, so GGUF is the way that serves
every base. Tensor names and the row order of llama's q and k follow llama.cpp's
`convert_lora_to_gguf.py`.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load, save

from pipeline.files import hash_file, publish_file, temporary_beside, write_file
from schemas.errors import RejectError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
GGUF = "adapter.gguf"

Array = npt.NDArray[Any]
_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")


class AdapterUnsupported(RejectError):
    """Adapters of this base model cannot be written as GGUF; choose another base model."""

    code = "adapter_unsupported"


class _Architecture(NamedTuple):
    kind: gguf.MODEL_ARCH
    permuted: bool
    """llama.cpp keeps the rows of q and k in another order than transformers."""


# An allow-list: a wrong guess here gives an adapter that loads and talks nonsense.
_ARCHITECTURES: dict[str, _Architecture] = {
    "llama": _Architecture(gguf.MODEL_ARCH.LLAMA, permuted=True),
    "qwen2": _Architecture(gguf.MODEL_ARCH.QWEN2, permuted=False),
    "qwen3": _Architecture(gguf.MODEL_ARCH.QWEN3, permuted=False),
    "gemma2": _Architecture(gguf.MODEL_ARCH.GEMMA2, permuted=False),
    "gemma3_text": _Architecture(gguf.MODEL_ARCH.GEMMA3, permuted=False),
}


def save_peft(model: PeftModel, folder: Path) -> str:
    """Write a peft adapter whole or not at all; return the hash of its weights."""
    tensors = {
        name: value.detach().to("cpu", torch.float32).contiguous()
        for name, value in get_peft_model_state_dict(model).items()
    }
    config = model.peft_config["default"].to_dict()
    config["inference_mode"] = True
    config["target_modules"] = sorted(config["target_modules"])
    text = json.dumps(config, default=str, sort_keys=True, indent=2)
    write_file(folder / CONFIG, text.encode())
    # The weights last: where they stand, the rest stands too.
    write_file(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    return hash_file(folder / WEIGHTS)


def export_gguf(folder: Path, base: Any) -> Path:
    """Write a saved adapter as GGUF beside it, in F16.

    `base` is the transformers configuration of the base model. Raises AdapterUnsupported for an
    architecture or a kind of LoRA that llama.cpp would read wrongly.
    """
    config = json.loads((folder / CONFIG).read_text())
    architecture = _architecture(base.model_type, config)
    target = folder / GGUF
    with temporary_beside(target) as file:
        writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[architecture.kind])
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
        tensors = load((folder / WEIGHTS).read_bytes())
        for name, value in _named(tensors, architecture, base):
            # Never F64: the runner would crash at the first chat.
            writer.add_tensor(name, np.ascontiguousarray(value.astype(np.float16)))
        writer.write_header_to_file(Path(file.name))
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        publish_file(file, target)
    return target


def _architecture(model_type: str, config: dict[str, Any]) -> _Architecture:
    known = _ARCHITECTURES.get(model_type)
    if known is None:
        raise AdapterUnsupported(f"architecture {model_type!r} has no GGUF form here")
    for name in ("use_dora", "use_rslora", "alpha_pattern", "rank_pattern", "modules_to_save"):
        if config.get(name):
            raise AdapterUnsupported(f"{name} has no GGUF form")
    if config.get("bias", "none") != "none":
        raise AdapterUnsupported("a trained bias has no GGUF form")
    return known


def _named(
    tensors: dict[str, torch.Tensor], architecture: _Architecture, base: Any
) -> list[tuple[str, Array]]:
    names = gguf.get_tensor_name_map(architecture.kind, base.num_hidden_layers)
    named = []
    for key in sorted(tensors):
        match = _TENSOR.fullmatch(key)
        name = names.get_name(f"{match[1]}.weight", try_suffixes=(".weight",)) if match else None
        if match is None or name is None:
            raise AdapterUnsupported(f"tensor {key} has no GGUF name")
        value: Array = tensors[key].float().numpy()
        if match[2] == "B" and architecture.permuted:
            value = _permute(name, value, base)
        named.append((f"{name}.lora_{match[2].lower()}", value))
    return named


def _permute(name: str, rows: Array, base: Any) -> Array:
    """Bring the rows of q and k ([out, rank]) into llama.cpp's order: halves interleaved."""
    heads = {
        "attn_q": base.num_attention_heads,
        "attn_k": base.num_key_value_heads,
    }.get(name.split(".")[-2])
    if heads is None:
        return rows
    return (
        rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)
    )
