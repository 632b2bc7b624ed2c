"""What a job's steps call: to report progress, and to check whether they may go on."""

from collections.abc import Callable
from typing import Protocol

from pipeline.ledger.progress import ProgressState, ProgressTracker
from schemas.events import Stage
from schemas.training import TrainingProgress

OnStage = Callable[[Stage], None]


class Watch(Protocol):
    """What a running job needs of its holder."""

    def check(self) -> None:
        """Raise LeaseLost, JobCancelled or Stopped when the work must stop."""

    def report(self, state: ProgressState) -> None:
        """Store progress."""


class Unwatched:
    """A watch for work without a ledger: nothing stops it, nothing is stored."""

    def check(self) -> None:
        """Never stop."""

    def report(self, state: ProgressState) -> None:
        """Store nothing."""


class JobProgress:
    """One attempt's progress through its stages, reported to the job's holder."""

    def __init__(self, watch: Watch, on_stage: OnStage) -> None:
        """`on_stage` is called as each stage begins."""
        self._watch = watch
        self._on_stage = on_stage
        self._tracker = ProgressTracker()

    def check(self) -> None:
        """Raise what `Watch.check` raises."""
        self._watch.check()

    def begin(self, stage: Stage) -> None:
        """Begin a stage."""
        self._on_stage(stage)
        self._report(self._tracker.start_tracking(stage))

    def advance(self, stage: Stage, fraction: float) -> None:
        """Report how much of a stage is done, from 0 to 1; begin it if it has not begun."""
        if self._tracker.state.stage != stage:
            self.begin(stage)
        self._report(self._tracker.update_progress(fraction))

    def train(self, progress: TrainingProgress) -> None:
        """Report what the training process measured, without `check`: its runner calls that."""
        if progress.stage != self._tracker.state.stage:
            self._on_stage(progress.stage)
        self._watch.report(self._tracker.update_training(progress))

    def _report(self, state: ProgressState) -> None:
        self.check()
        self._watch.report(state)
