"""What a progress bar says beside its bar."""

from typing import Any


def describe_progress(progress: dict[str, Any]) -> str:
    """Say of a running job its epoch, loss and remaining time."""
    parts = []
    if progress["total_epochs"]:
        parts.append(f"epoch {progress['current_epoch']}/{progress['total_epochs']}")
    if progress["loss"] is not None:
        parts.append(f"loss {progress['loss']:.2f}")
    if progress["eta"]:
        parts.append(f"ETA {progress['eta']}")
    return "  ".join(parts)
