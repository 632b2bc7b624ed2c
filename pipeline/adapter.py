"""The adapter as files: peft safetensors, and a GGUF LoRA for llama.cpp and Ollama.

Ollama converts safetensors adapters of Llama and Gemma 2 alone, so GGUF is the way that serves
every base. Tensor names and the row order of llama's q and k follow llama.cpp's
`convert_lora_to_gguf.py`.
"""

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load, save

from pipeline.files import (
    check_folder,
    hash_file,
    publish_file,
    seal_folder,
    sealed_files,
    temporary_beside,
    write_file,
)
from schemas.errors import AdapterUnsupported, ArtefactCorrupt
from schemas.training import ADAPTER_CONFIG as CONFIG
from schemas.training import ADAPTER_GGUF as GGUF
from schemas.training import ADAPTER_WEIGHTS as WEIGHTS

Array = npt.NDArray[Any]
_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")


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
    """Write a peft adapter as a sealed folder; return the hash of its weights."""
    tensors = {
        name: value.detach().to("cpu", torch.float32).contiguous()
        for name, value in get_peft_model_state_dict(model).items()
    }
    config = model.peft_config["default"].to_dict()
    config["inference_mode"] = True
    config["target_modules"] = sorted(config["target_modules"])
    text = json.dumps(config, default=str, sort_keys=True, indent=2)
    config_sha256 = write_file(folder / CONFIG, text.encode())
    sha256 = write_file(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    # The manifest last: where it stands, the rest stands too.
    seal_folder(folder, {CONFIG: config_sha256, WEIGHTS: sha256})
    return sha256


def export_gguf(folder: Path, base: Any) -> Path:
    """Write a saved adapter as GGUF beside it, in F16, and seal the folder with it.

    `base` is the transformers configuration of the base model. Raises AdapterUnsupported for an
    architecture or a kind of LoRA that llama.cpp would read wrongly, ArtefactCorrupt where the
    adapter or the GGUF is not on the disk as it was written.
    """
    check_folder(folder)
    config = json.loads((folder / CONFIG).read_text())
    architecture = _architecture(base.model_type, config)
    target = folder / GGUF
    # Never F64: the runner would crash at the first chat.
    halves = {
        name: np.ascontiguousarray(value.astype(np.float16))
        for name, value in _named(load((folder / WEIGHTS).read_bytes()), architecture, base)
    }
    with temporary_beside(target) as file:
        _write_gguf(Path(file.name), architecture, float(config["lora_alpha"]), halves)
        _read_back(Path(file.name), halves)
        publish_file(file, target)
    seal_folder(folder, sealed_files(folder) | {GGUF: hash_file(target)})
    return target


def _write_gguf(
    path: Path, architecture: _Architecture, alpha: float, tensors: dict[str, Array]
) -> None:
    # Closed whatever happens: an open writer would write what is left at the collector's time.
    with closing(gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[architecture.kind])) as writer:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for name, value in tensors.items():
            writer.add_tensor(name, value)
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def _read_back(path: Path, written: dict[str, Array]) -> None:
    """Compare a GGUF with what it was made from.

    NumPy's tofile() says nothing when the last of a file finds no room on the disk.
    """
    try:
        found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
        same = found.keys() == written.keys() and all(
            np.array_equal(found[name], value) for name, value in written.items()
        )
    except (ValueError, IndexError, KeyError):  # What its reader makes of a file cut short.
        same = False
    if not same:
        raise ArtefactCorrupt("the GGUF was not written whole; it must be built again")


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
