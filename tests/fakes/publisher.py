"""A publisher in memory."""

from collections.abc import Iterable
from concurrent.futures import Future

from producers.publisher import Publication
from schemas.errors import NoSuchTopic


class RecordingPublisher:
    """Records publications; each queued entry of `failures` decides one of the next calls.

    An exception fails the call, None lets it pass. `partitions` is the number of partitions of
    every topic; None accepts any partition.
    """

    def __init__(self, *failures: Exception | None, partitions: int | None = None) -> None:
        self.failures = list(failures)
        self._partitions = partitions
        self.published: list[Publication] = []
        self.tries = 0

    def publish(self, publication: Publication) -> "Future[None]":
        """Return a future that is already done: confirmed, or failed with the next queued error."""
        self.tries += 1
        confirmed: Future[None] = Future()
        failure = self.failures.pop(0) if self.failures else None
        if failure is None and not self._has(publication.partition):
            if publication.may_go_elsewhere:
                publication = publication.model_copy(update={"partition": None})
            else:
                failure = NoSuchTopic()
        if failure is not None:
            confirmed.set_exception(failure)
        else:
            self.published.append(publication)
            confirmed.set_result(None)
        return confirmed

    def confirm(self, publications: Iterable[Publication]) -> None:
        """Publish all, then raise the first failure."""
        for future in [self.publish(p) for p in publications]:
            future.result()

    def _has(self, partition: int | None) -> bool:
        return None in (partition, self._partitions) or (partition or 0) < (self._partitions or 0)
