"""Reads the headers of a job's GGUF files; errors name the file that an operator must restore."""

from pathlib import Path

from pipeline.weights.gguf_file import UnusableGguf, Weights, read_weights
from schemas.errors import AdapterUnsupported, ArtefactCorrupt


def read_model(path: Path) -> Weights:
    """Read the header of a base model that is one whole GGUF file.

    Raises ArtefactCorrupt if it is missing or damaged, AdapterUnsupported if it is split.
    """
    weights = read_header(path)
    parts = weights.metadata.get("split.count")
    if isinstance(parts, int) and parts > 1:
        raise AdapterUnsupported(f"{path.name} is one of {parts} parts; join them to one GGUF file")
    return weights


def read_header(path: Path) -> Weights:
    """Read a GGUF file's header; raises ArtefactCorrupt if it is missing or damaged."""
    try:
        return read_weights(path)
    except FileNotFoundError as error:
        raise ArtefactCorrupt(f"{path.name} is missing; put it back") from error
    except (UnusableGguf, ValueError) as error:  # ValueError: the file is empty.
        raise ArtefactCorrupt(f"{path.name} is no whole GGUF file; put it back") from error
