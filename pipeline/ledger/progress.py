"""Progress of a job: its stage, a percentage that never goes back, and the seconds left."""

from schemas.base import Frozen
from schemas.events import Stage
from schemas.training import TrainingProgress

# Where each stage begins and ends, in percent; training takes nearly all of the time.
STAGE_RANGES: dict[Stage, tuple[int, int]] = {
    "preparing": (0, 5),
    "training": (5, 85),
    "converting": (85, 88),
    "evaluating": (88, 97),
    "publishing": (97, 99),
}


class ProgressState(Frozen):
    """How far a job is, as the ledger stores it."""

    stage: Stage
    progress: int
    step: int = 0
    total_steps: int = 0
    current_epoch: int = 0
    total_epochs: int = 0
    loss: float | None = None
    eta_seconds: int | None = None


class ProgressTracker:
    """Turns measurements into a percentage. Class and methods keep the original API's names."""

    def __init__(self) -> None:
        self._state = ProgressState(stage="preparing", progress=0)

    @property
    def state(self) -> ProgressState:
        """The last state."""
        return self._state

    def start_tracking(self, stage: Stage) -> ProgressState:
        """Begin a stage; the last measurements of training stay in the state."""
        start, _ = STAGE_RANGES[stage]
        progress = max(start, self._state.progress)
        self._state = self._state.model_copy(
            update={"stage": stage, "progress": progress, "eta_seconds": None}
        )
        return self._state

    def update_progress(self, fraction: float) -> ProgressState:
        """Move within the stage; `fraction` is the part of it that is done, 0 to 1."""
        start, end = STAGE_RANGES[self._state.stage]
        reached = start + int((end - start) * min(max(fraction, 0.0), 1.0))
        progress = max(reached, self._state.progress)
        self._state = self._state.model_copy(update={"progress": progress})
        return self._state

    def update_training(self, measured: TrainingProgress) -> ProgressState:
        """Take over what the training process measured, and begin its stage if that is new."""
        if measured.stage != self._state.stage:
            self.start_tracking(measured.stage)
        fraction = measured.step / measured.total_steps if measured.total_steps else 0.0
        self.update_progress(fraction if measured.stage == "training" else 0.0)
        eta = measured.eta_seconds
        self._state = self._state.model_copy(
            update={
                "step": measured.step,
                "total_steps": measured.total_steps,
                "current_epoch": measured.epoch,
                "total_epochs": measured.total_epochs,
                "loss": measured.loss if measured.loss is not None else self._state.loss,
                "eta_seconds": None if eta is None else round(eta),
            }
        )
        return self._state
