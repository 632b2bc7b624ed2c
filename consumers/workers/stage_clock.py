"""The stage clock: measures how long each stage of a job takes."""

import time

from config.metrics import Metrics
from schemas.events import Stage


class StageClock:
    """Observes `training_stage_seconds` of one stage after the other."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._stage: Stage | None = None
        self._begun = 0.0

    def begin(self, stage: Stage) -> None:
        """Note that a stage begins, which ends the one before it."""
        self.end()
        self._stage, self._begun = stage, time.monotonic()

    def end(self) -> None:
        """Note that the current stage has ended, if there is one."""
        if self._stage is not None:
            seconds = time.monotonic() - self._begun
            self._metrics.stage_seconds.labels(self._stage).observe(seconds)
            self._stage = None
