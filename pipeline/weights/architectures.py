"""Which base models' adapters llama.cpp can read, found without torch and before any training.

An allow-list by transformers' `model_type`. Whether an unknown family keeps the rows of q and k
in another order cannot be guessed: an adapter written wrongly loads, and speaks nonsense.
"""

import json
from pathlib import Path
from typing import Any, Final

from pipeline.storage.disk_errors import disk_errors
from pipeline.storage.files import hash_file
from pipeline.storage.manifests import is_sealed, sealed_files
from pipeline.weights.base_folder import CONFIG, weights_folder
from pipeline.weights.gguf_file import UnusableGguf, Weights, read_weights
from schemas.base import Frozen
from schemas.errors import AdapterUnsupported, ArtefactCorrupt
from schemas.training import BaseModelSpec


class Architecture(Frozen):
    """What llama.cpp calls a family, and how it keeps its weights."""

    name: str
    """`general.architecture` in the GGUF of a base and of its adapters."""
    permuted: bool
    """llama.cpp keeps the rows of q and k in another order than transformers."""


_LLAMA: Final = Architecture(name="llama", permuted=True)
_GEMMA3: Final = Architecture(name="gemma3", permuted=False)
ARCHITECTURES: Final[dict[str, Architecture]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture(name="qwen2", permuted=False),
    "qwen3": Architecture(name="qwen3", permuted=False),
    "gemma2": Architecture(name="gemma2", permuted=False),
    "gemma3": _GEMMA3,  # Text and pictures; its language model is that of gemma3_text.
    "gemma3_text": _GEMMA3,
    "phi3": Architecture(name="phi3", permuted=False),
}
_KNOWN: Final = "Llama, Mistral, Qwen2, Qwen3, Gemma 2, Gemma 3 and Phi-3"
# The same sizes under transformers' names and under llama.cpp's.
_SIZES: Final = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
}


def architecture_of(model_type: str) -> Architecture:
    """Return llama.cpp's form of a transformers family; raises AdapterUnsupported."""
    known = ARCHITECTURES.get(model_type)
    if known is None:
        raise _unsupported(model_type)
    return known


def check_architecture(spec: BaseModelSpec) -> None:
    """Raise AdapterUnsupported for a base model whose adapters have no GGUF form.

    Reads `config.json` and the header of the GGUF file, whichever is there; where both are, they
    must be the same model. Where neither is, loading the base tells what is missing.
    """
    with disk_errors():
        config = _read_config(weights_folder(spec))
        weights = _read_header(spec.gguf_path)
    wanted = architecture_of(str(config.get("model_type"))) if config is not None else None
    if weights is None:
        return
    _check_served(weights)
    if config is not None and wanted is not None:
        _check_same(config, wanted, weights)


def _read_config(folder: Path) -> dict[str, Any] | None:
    """Return `config.json`; None where it is not there, or was converted here and is damaged."""
    path = folder / CONFIG
    if not path.is_file() or _is_damaged(path):
        return None
    try:
        config = json.loads(path.read_bytes())
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise AdapterUnsupported(f"{path} is no JSON object; put the base model's own there")
    return config


def _is_damaged(path: Path) -> bool:
    """Say whether a converted file is not as it was sealed; it will be converted again."""
    if not is_sealed(path.parent):
        return False
    try:
        return sealed_files(path.parent).get(path.name) != hash_file(path)
    except ArtefactCorrupt:
        return True


def _read_header(path: Path) -> Weights | None:
    if not path.is_file():
        return None
    try:
        return read_weights(path)
    # An empty file cannot be mapped into memory.
    except (UnusableGguf, ValueError) as error:
        raise AdapterUnsupported(f"{path} is no whole GGUF file; put it there again") from error


def _check_served(weights: Weights) -> None:
    name = weights.architecture
    if name not in {known.name for known in ARCHITECTURES.values()}:
        raise _unsupported(name)
    # Mixtures of experts of these families have the same name.
    if weights.metadata.get(f"{name}.expert_count"):
        raise _unsupported(f"{name} with experts")


def _check_same(config: dict[str, Any], wanted: Architecture, weights: Weights) -> None:
    """Compare what is trained on with what is served."""
    if weights.architecture != wanted.name:
        raise AdapterUnsupported(
            f"the base's hf_path is {wanted.name} and its gguf_path {weights.architecture}; "
            "name two forms of one model"
        )
    own = config.get("text_config", config)
    for theirs, ours in _SIZES.items():
        trained, served = own.get(theirs), weights.metadata.get(f"{wanted.name}.{ours}")
        if isinstance(trained, int) and isinstance(served, int) and trained != served:
            raise AdapterUnsupported(
                f"the base's hf_path has {theirs} {trained} and its gguf_path {served}; "
                "name two forms of one model"
            )


def _unsupported(name: str) -> AdapterUnsupported:
    return AdapterUnsupported(
        f"adapters of architecture {name!r} have no GGUF form here; choose a base of {_KNOWN}"
    )
