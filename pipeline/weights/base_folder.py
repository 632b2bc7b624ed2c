"""The folder of a base model's safetensors, existing or to be made from its GGUF file."""

from pathlib import Path

from schemas.training import BaseModelSpec

CONFIG = "config.json"
CONVERTED = "hf"


def weights_folder(spec: BaseModelSpec) -> Path:
    """Return the folder to train from: `hf_path`, except in two layouts of earlier releases.

    If the GGUF file is inside `hf_path`, the folder is `hf` in it, so that a conversion does not
    replace the GGUF file. If `hf_path` is named `hf` but the weights are beside the GGUF file in
    its parent, the folder is that parent.
    """
    if (spec.hf_path / CONFIG).is_file():
        return spec.hf_path
    if lies_in(spec.gguf_path, spec.hf_path):
        return spec.hf_path / CONVERTED
    outer = spec.hf_path.parent
    is_beside = spec.hf_path.name == CONVERTED and spec.gguf_path.parent == outer
    return outer if is_beside and (outer / CONFIG).is_file() else spec.hf_path


def lies_in(file: Path, folder: Path) -> bool:
    """Say whether a file is inside a folder, symbolic links and `..` resolved."""
    return file.parent.resolve().is_relative_to(folder.resolve())
