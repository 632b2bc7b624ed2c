"""`train-requested`: checks requests and stores them in the ledger."""

from collections.abc import Callable, Sequence

from config.training import TrainingConfig
from consumers.kafka.dispatch import Received, Rejection
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.new_job import NewJob
from schemas.errors import RejectError
from schemas.events import TrainRequested, apply_overrides, read_event
from schemas.record import Record


class TrainingHandler:
    """Accepts requests in batches; a worker, in this process or another, runs them."""

    def __init__(self, ledger: Ledger, config: TrainingConfig, wake: Callable[[], None]) -> None:
        """`wake` tells this process's worker that there may be a job."""
        self._ledger = ledger
        self._config = config
        self._wake = wake

    def handle(self, received: Sequence[Received]) -> list[Rejection]:
        """Insert all valid requests in one write; return the others."""
        refused: list[Rejection] = []
        accepted: list[NewJob] = []
        for one in received:
            try:
                accepted.append(self._read(one))
            except RejectError as error:
                refused.append((one, error))
        self._ledger.accept(accepted)
        self._wake()
        return refused

    def refuse(self, record: Record, error: RejectError) -> None:
        """Return None: nobody waits for a reply, so the record becomes a dead letter."""

    def _read(self, received: Received) -> NewJob:
        envelope = received.envelope
        event = read_event(envelope, TrainRequested)
        key = event.base_model or self._config.current_model
        apply_overrides(self._config.parameters(key), event.overrides)
        return NewJob(
            request_source=envelope.source,
            request_id=envelope.id,
            requested_at=envelope.time,
            elder_id=event.elder_id,
            elder_name=event.elder_name,
            force_retrain=event.force_retrain,
            job_id=event.job_id,
            base_model=event.base_model,
            overrides=event.overrides,
            traceparent=envelope.traceparent,
            queue_order=received.record.offset,
        )
