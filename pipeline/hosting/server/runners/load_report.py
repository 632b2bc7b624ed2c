"""The report on a load of llama.cpp that a scheduler gives to its observer."""

from schemas.base import Frozen


class LoadReport(Frozen):
    """One load, successful or not."""

    base: str
    adapters: int
    seconds: float
    error: str | None = None
    is_down: bool = False
    """Whether the base itself could not be loaded, so that none of its requests is served."""
