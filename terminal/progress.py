"""The text beside a progress bar."""

from typing import Any


def describe_progress(progress: dict[str, Any]) -> str:
    """Describe a running job: epoch, loss and estimated time left, as far as they are known."""
    parts = []
    if progress["total_epochs"]:
        parts.append(f"epoch {progress['current_epoch']}/{progress['total_epochs']}")
    if progress["loss"] is not None:
        parts.append(f"loss {progress['loss']:.2f}")
    if progress["eta"]:
        parts.append(f"ETA {progress['eta']}")
    return "  ".join(parts)
