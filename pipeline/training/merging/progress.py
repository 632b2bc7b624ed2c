"""The progress of a merge, and its cancellation."""

from collections.abc import Callable

from schemas.errors import JobCancelled
from schemas.training import TrainingProgress

OnProgress = Callable[[TrainingProgress], None]
_REPORT_EVERY_S = 0.25
_MIB = 1024 * 1024


class MergeProgress:
    """Reports how many bytes are written, and stops the merge when it is asked to."""

    def __init__(
        self,
        total_bytes: int,
        on_progress: OnProgress,
        should_stop: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._total_bytes = total_bytes
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._clock = clock
        self._begun_s = clock()
        self._reported_at_s = float("-inf")
        self._written_bytes = 0

    def advance(self, written_bytes: int = 0) -> None:
        """Count more bytes and report them in steps of a mebibyte; raises JobCancelled.

        Reports at most four times a second, and always the last byte.
        """
        self._written_bytes += written_bytes
        if self._should_stop():
            raise JobCancelled
        now = self._clock()
        if now - self._reported_at_s < _REPORT_EVERY_S and self._written_bytes < self._total_bytes:
            return
        self._reported_at_s = now
        self._on_progress(
            TrainingProgress(
                stage="converting",
                step=self._written_bytes // _MIB,
                total_steps=self._total_bytes // _MIB,
                epoch=0,
                total_epochs=0,
                eta_seconds=self._eta_s(now),
            )
        )

    def _eta_s(self, now_s: float) -> float | None:
        """Estimate the seconds left from the mean rate so far."""
        if not self._written_bytes:
            return None
        remaining_bytes = self._total_bytes - self._written_bytes
        return (now_s - self._begun_s) * remaining_bytes / self._written_bytes
