"""The adapter as files: peft safetensors, and a GGUF LoRA for llama.cpp and Ollama.

Ollama converts safetensors adapters of Llama and Gemma 2 only; as GGUF, adapters of every base are
served. Tensor names and the row order of Llama's q and k follow llama.cpp's
`convert_lora_to_gguf.py`, and the tests compare the bytes.

llama.cpp adds alpha / rank * B A to a weight, with one alpha for the whole file. peft may scale a
layer otherwise (its own alpha, or rsLoRA's alpha / sqrt(rank)). Such a layer's B is multiplied by
its effective alpha over the file's, so that both compute the same.
"""

import json
import math
import re
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils.other import get_pattern_key
from safetensors.torch import load, save

from pipeline.storage.files import hash_file, publish_file, temporary_beside, write_file
from pipeline.storage.folders import check_folder, seal_folder
from pipeline.storage.manifests import sealed_files
from pipeline.weights.architectures import Architecture, architecture_of
from schemas.errors import AdapterUnsupported, ArtefactCorrupt
from schemas.training import ADAPTER_CONFIG as CONFIG
from schemas.training import ADAPTER_GGUF as GGUF
from schemas.training import ADAPTER_WEIGHTS as WEIGHTS

Array = npt.NDArray[Any]
_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")
# Fields of peft's configuration that the export takes into account, and those that do not change
# what an adapter computes. Any other field that is set means a kind of LoRA unknown to llama.cpp.
_EXPORTED: Final = frozenset({"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"})
_HARMLESS: Final = frozenset(
    {
        "task_type",
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "lora_dropout",
        "bias",
        "init_lora_weights",
        "megatron_core",
        "qalora_group_size",
        "ensure_weight_tying",
    }
)
# Initializations that leave the base's weights alone. Others (PiSSA, OLoRA, LoftQ) change them, and
# the host serves the unchanged base.
_PLAIN_INITIALIZATIONS: Final = (True, False, "gaussian", "orthogonal")
# Part of a layer's name in a multimodal model; gguf's table of names lacks it.
_LANGUAGE_MODEL: Final = "language_model."


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
    # The manifest is written last: a folder that has one is complete.
    seal_folder(folder, {CONFIG: config_sha256, WEIGHTS: sha256})
    return sha256


def export_gguf(folder: Path, base: Any) -> Path:
    """Write a saved adapter as GGUF beside it, in F16, and seal the folder with it.

    `folder` is what `save_peft` wrote; `base` is the transformers configuration of the base model.
    Returns the GGUF file's path.

    Raises:
        AdapterUnsupported: llama.cpp would read this architecture or kind of LoRA wrongly.
        ArtefactCorrupt: the adapter or the GGUF on the disk differs from what was written.
    """
    check_folder(folder)
    config = json.loads((folder / CONFIG).read_text())
    architecture = architecture_of(base.model_type)
    _check_kind(config)
    tensors = load((folder / WEIGHTS).read_bytes())
    alphas = _alphas(tensors, config)
    # The file's alpha: that of all layers if they agree, else the configured one.
    alpha = max(alphas.values()) if len(set(alphas.values())) == 1 else float(config["lora_alpha"])
    folds = {module: own / alpha for module, own in alphas.items()}
    target = folder / GGUF
    # F16 always: an F64 tensor crashes llama.cpp at the first chat.
    halves = {
        name: np.ascontiguousarray(value.astype(np.float16))
        for name, value in _named(tensors, architecture, base.get_text_config(), folds)
    }
    with temporary_beside(target) as file:
        _write_gguf(Path(file.name), architecture, alpha, halves)
        _read_back(Path(file.name), halves)
        publish_file(file, target)
    seal_folder(folder, sealed_files(folder) | {GGUF: hash_file(target)})
    return target


def _write_gguf(
    path: Path, architecture: Architecture, alpha: float, tensors: dict[str, Array]
) -> None:
    # Closed on errors too: a writer left open writes its rest whenever it is garbage-collected.
    with closing(gguf.GGUFWriter(None, architecture.name)) as writer:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for name, value in tensors.items():
            writer.add_tensor(name, value)
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def _read_back(path: Path, written: dict[str, Array]) -> None:
    """Raise ArtefactCorrupt unless a GGUF file holds exactly the tensors `written`.

    NumPy's tofile() reports no error when the disk is full at a file's last block.
    """
    try:
        found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
        same = found.keys() == written.keys() and all(
            np.array_equal(found[name], value) for name, value in written.items()
        )
    except (ValueError, IndexError, KeyError):  # What GGUFReader raises for a truncated file.
        same = False
    if not same:
        raise ArtefactCorrupt("the GGUF was not written whole; it must be built again")


def _check_kind(config: dict[str, Any]) -> None:
    """Raise AdapterUnsupported for a kind of LoRA that llama.cpp ignores or cannot read."""
    for name in sorted(config.keys() - _EXPORTED - _HARMLESS):
        if config[name]:
            raise AdapterUnsupported(f"{name} has no GGUF form")
    if config.get("peft_type", "LORA") != "LORA":
        raise AdapterUnsupported(f"{config['peft_type']} has no GGUF form")
    if config.get("bias", "none") != "none":
        raise AdapterUnsupported("a trained bias has no GGUF form")
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_INITIALIZATIONS:
        raise AdapterUnsupported(f"init_lora_weights {start!r} changes the base model")


def _alphas(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> dict[str, float]:
    """Return each adapted layer's effective alpha: peft multiplies its B A by alpha / rank.

    For rsLoRA that is alpha * sqrt(rank), since it scales by alpha / sqrt(rank)
    (Kalajdzievski 2023).
    """
    alphas = {}
    for key, value in tensors.items():
        match = _TENSOR.fullmatch(key)
        if match is None or match[2] != "B":
            continue
        patterns = config.get("alpha_pattern") or {}
        alpha = patterns.get(get_pattern_key(patterns, match[1]), config["lora_alpha"])
        alphas[match[1]] = float(alpha) * (
            math.sqrt(value.shape[1]) if config.get("use_rslora") else 1.0
        )
    # llama.cpp takes an alpha of 0 for a scale of 1.
    if not alphas or min(alphas.values()) <= 0 or config["lora_alpha"] <= 0:
        raise AdapterUnsupported("an adapter without layers, or with alpha 0, has no GGUF form")
    return alphas


def _named(
    tensors: dict[str, torch.Tensor],
    architecture: Architecture,
    base: Any,
    folds: dict[str, float],
) -> list[tuple[str, Array]]:
    """Return the tensors under llama.cpp's names, scaled and in its row order.

    A is [rank, in] and B [out, rank], as peft has them. `folds` is each layer's factor for B;
    `base` is the language model's configuration.
    """
    kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(kind, base.num_hidden_layers)
    named = []
    for key in sorted(tensors):
        match = _TENSOR.fullmatch(key)
        name = names.get_name(match[1].replace(_LANGUAGE_MODEL, "")) if match else None
        if match is None or name is None or match[1] not in folds:
            raise AdapterUnsupported(f"tensor {key} has no GGUF name")
        if name == "output" and base.tie_word_embeddings:
            raise AdapterUnsupported("lm_head has no GGUF form of its own: it is the embedding")
        value: Array = tensors[key].float().numpy()
        if match[2] == "B":
            value = value * np.float32(folds[match[1]])
            value = _permute(name, value, base) if architecture.permuted else value
        named.append((f"{name}.weight.lora_{match[2].lower()}", value))
    return named


def _permute(name: str, rows: Array, base: Any) -> Array:
    """Bring the rows of q's and k's B, [out, rank], into llama.cpp's order; return others as is.

    transformers rotates the two halves of a head (rotary embedding), llama.cpp neighbouring rows:
    row (half, place) of each head becomes row (place, half). Source: llama.cpp's
    `LlamaModel.permute`.
    """
    heads = {
        "attn_q": base.num_attention_heads,
        "attn_k": base.num_key_value_heads,
    }.get(name.split(".")[-1])
    if heads is None:
        return rows
    return (
        rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)
    )
