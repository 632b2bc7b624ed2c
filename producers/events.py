"""Events that are published outside the ledger: one typed function for each."""

from collections.abc import Callable
from datetime import datetime

from producers.publisher import Publication, to_publication
from schemas.envelope import Envelope, OutboundEvent, fingerprint, id_after
from schemas.events import AnswersUpdated, ChatRequest, DatasetReady, TrainRequested
from schemas.topics import ANSWERS_UPDATED, CHAT_REQUESTS, DATASET_READY, TRAIN_REQUESTED

TopicName = Callable[[str], str]


class Events:
    """Builds publications; `topic_name` maps a catalogue's topic name to the broker's."""

    def __init__(self, source: str, topic_name: TopicName, clock: Callable[[], datetime]) -> None:
        self._source = source
        self._topic_name = topic_name
        self._clock = clock

    def dataset_ready(self, data: DatasetReady, *, cause: Envelope) -> Publication:
        """Announce a data set; `cause` is the event that led to it.

        A repeat has the same event id. Another elder or another data set gets another id, even if
        the sender uses the cause's source and id twice.
        """
        key = fingerprint(cause.source, cause.id, data.elder_id, data.dataset_sha256)
        return self._publication(
            DATASET_READY.name,
            data.elder_id,
            id_after(cause.id, "dataset-ready", key),
            data.model_dump(mode="json"),
            cause.traceparent,
        )

    def answers_updated(self, data: AnswersUpdated, *, event_id: str) -> Publication:
        """Announce that an elder's answers changed, as the upstream app does."""
        return self._request(ANSWERS_UPDATED.name, data, event_id)

    def train_requested(self, data: TrainRequested, *, event_id: str) -> Publication:
        """Request a training, as the upstream app does."""
        return self._request(TRAIN_REQUESTED.name, data, event_id)

    def chat_requested(self, data: ChatRequest, *, event_id: str) -> Publication:
        """Ask a question, as a family's app does."""
        return self._request(CHAT_REQUESTS.name, data, event_id)

    def stored(self, event: OutboundEvent) -> Publication:
        """Encode an event of the ledger's outbox."""
        return to_publication(event, self._topic_name(event.topic))

    def _request(
        self, topic: str, data: AnswersUpdated | TrainRequested | ChatRequest, event_id: str
    ) -> Publication:
        body = data.model_dump(mode="json", exclude_none=True)
        return self._publication(topic, data.elder_id, event_id, body, None)

    def _publication(
        self,
        topic: str,
        key: str,
        event_id: str,
        data: dict[str, object],
        traceparent: str | None,
    ) -> Publication:
        event = OutboundEvent(
            topic=topic,
            key=key,
            id=event_id,
            source=self._source,
            time=self._clock(),
            data=data,
            traceparent=traceparent,
        )
        return to_publication(event, self._topic_name(topic))
