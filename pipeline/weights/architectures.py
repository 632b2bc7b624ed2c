"""The architectures whose adapters llama.cpp can read, checked without torch before any training.

They are an allow-list by transformers' `model_type`. Whether llama.cpp reorders the rows of q and k
in an unknown family cannot be guessed, and an adapter in the wrong order loads but makes the
persona speak nonsense.
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
    """llama.cpp's name of a family of models, and its order of their weights."""

    name: str
    """`general.architecture` in the GGUF of a base and of its adapters."""
    permuted: bool
    """Whether llama.cpp has the rows of q and k in another order than transformers."""


_LLAMA: Final = Architecture(name="llama", permuted=True)
_GEMMA3: Final = Architecture(name="gemma3", permuted=False)
ARCHITECTURES: Final[dict[str, Architecture]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture(name="qwen2", permuted=False),
    "qwen3": Architecture(name="qwen3", permuted=False),
    "gemma2": Architecture(name="gemma2", permuted=False),
    "gemma3": _GEMMA3,  # Multimodal; its language model is gemma3_text.
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
    """Return the architecture of a transformers `model_type`; raises AdapterUnsupported."""
    known = ARCHITECTURES.get(model_type)
    if known is None:
        raise _unsupported(model_type)
    return known


def check_architecture(spec: BaseModelSpec) -> None:
    """Raise AdapterUnsupported for a base model whose adapters have no GGUF form.

    Reads `config.json` and the header of the GGUF file, as far as they exist. If both do, they
    must describe the same model. If neither does, nothing is raised: loading the base then says
    what is missing.
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
    """Return `config.json`, or None if it is missing or a damaged file of a conversion."""
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
    """Say whether a converted file differs from its manifest; if so it will be converted again."""
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
    except (UnusableGguf, ValueError) as error:  # ValueError: the file is empty.
        raise AdapterUnsupported(f"{path} is no whole GGUF file; put it there again") from error


def _check_served(weights: Weights) -> None:
    name = weights.architecture
    if name not in {known.name for known in ARCHITECTURES.values()}:
        raise _unsupported(name)
    # A mixture of experts has the name of its dense family.
    if weights.metadata.get(f"{name}.expert_count"):
        raise _unsupported(f"{name} with experts")


def _check_same(config: dict[str, Any], wanted: Architecture, weights: Weights) -> None:
    """Raise AdapterUnsupported if the trained and the served weights are different models."""
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
