"""Where a base model's safetensors lie, or will lie once its GGUF file is converted."""

from pathlib import Path

from schemas.training import BaseModelSpec

CONFIG = "config.json"
CONVERTED = "hf"


def weights_folder(spec: BaseModelSpec) -> Path:
    """Return the folder to train from; a GGUF file is never converted over itself.

    It is `hf_path`, but for two layouts that once were the bundled ones: a GGUF file inside
    `hf_path` is converted to `hf` beside it, and weights that lie directly in the base model's
    folder, with the GGUF file, serve where `hf_path` is the folder `hf` in it.
    """
    if (spec.hf_path / CONFIG).is_file():
        return spec.hf_path
    if lies_in(spec.gguf_path, spec.hf_path):
        return spec.hf_path / CONVERTED
    outer = spec.hf_path.parent
    is_beside = spec.hf_path.name == CONVERTED and spec.gguf_path.parent == outer
    return outer if is_beside and (outer / CONFIG).is_file() else spec.hf_path


def lies_in(file: Path, folder: Path) -> bool:
    """Say whether a file lies in a folder, however the two are written."""
    return file.parent.resolve().is_relative_to(folder.resolve())
