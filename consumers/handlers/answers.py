"""`answers-updated`: reads the elder's answers, builds the data set and announces it."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from config.metrics import Metrics
from consumers.kafka.dispatch import Received, Rejection
from pipeline.dataset.answers import AnswerSource
from pipeline.dataset.builder import DatasetBuilder
from pipeline.dataset.dataset import Dataset
from pipeline.versions.registry import DatasetRegistry
from producers.events import Events
from producers.publisher import Publication
from schemas.errors import RejectError
from schemas.events import AnswersUpdated, DatasetReady, read_event
from schemas.record import Record


class AnswersHandler:
    """Builds data sets from what MongoDB has now, so the order of events does not matter."""

    def __init__(
        self,
        source: AnswerSource,
        datasets: DatasetBuilder,
        registry: DatasetRegistry,
        events: Events,
        confirm: Callable[[Iterable[Publication]], None],
        metrics: Metrics,
        base: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._source = source
        self._datasets = datasets
        self._registry = registry
        self._events = events
        self._confirm = confirm
        self._metrics = metrics
        self._base = base
        self._clock = clock

    def handle(self, received: Sequence[Received]) -> list[Rejection]:
        """Build and announce the data set of each event's elder."""
        refused: list[Rejection] = []
        for one in received:
            try:
                self._rebuild(one)
            except RejectError as error:
                refused.append((one, error))
        return refused

    def refuse(self, record: Record, error: RejectError) -> None:
        """Return None: nobody waits for a reply, so the record becomes a dead letter."""

    def _rebuild(self, received: Received) -> None:
        event = read_event(received.envelope, AnswersUpdated)
        name = event.elder_name or self._known_name(event.elder_id)
        dataset = self._datasets.build(event.elder_id, name, self._base)
        self._record(event.elder_id, name, dataset)
        for reason, count in dataset.skipped.items():
            self._metrics.skipped.labels(reason).inc(count)
        ready = DatasetReady(
            elder_id=event.elder_id,
            dataset_sha256=dataset.sha256,
            examples=dataset.examples,
            skipped=dataset.skipped,
            path=str(dataset.path),
        )
        self._confirm([self._events.dataset_ready(ready, cause=received.envelope)])

    def _known_name(self, elder_id: str) -> str:
        """Return the name from an earlier event, else the stored one, else the id."""
        known = self._registry.find(elder_id)
        stored: str | None = known.get("elder_name") if known else None
        return stored or self._source.elder_name(elder_id) or elder_id

    def _record(self, elder_id: str, name: str, dataset: Dataset) -> None:
        self._registry.record(
            elder_id,
            {
                "elder_name": name,
                "sha256": dataset.sha256,
                "path": str(dataset.path),
                "examples": dataset.examples,
                "skipped": dataset.skipped,
                "base_model": self._base,
                "updated_at": self._clock(),
            },
        )
