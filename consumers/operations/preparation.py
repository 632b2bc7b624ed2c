"""Preparation: the indexes and topics that roles need before they start."""

import threading
from collections.abc import Sequence

import structlog

from config.settings import Settings
from consumers.kafka.backoff import Backoff
from consumers.operations.topics import apply_topics
from pipeline.storage.indexes import ensure_indexes
from pipeline.storage.mongo import Store
from schemas.errors import RetryError
from schemas.topics import Topic

log = structlog.get_logger(__name__)


def prepare_servers(
    settings: Settings, store: Store, topics: Sequence[Topic], stop: threading.Event
) -> None:
    """Create MongoDB's indexes and Kafka's topics; retry while a server is not up yet.

    Returns early if `stop` is set.
    """
    backoff = Backoff()
    while not stop.is_set():
        try:
            ensure_indexes(store, settings.chat.dedup_hours)
            apply_topics(settings, topics=topics)
            return
        except RetryError as error:
            log.warning("app.waits", code=error.code, reason=error.message)
            backoff.wait(stop)
