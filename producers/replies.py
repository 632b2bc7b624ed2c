"""Builds replies, each for the topic that its request names, if the allow-list permits it."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from producers.publisher import Publication
from producers.reply_topics import ReplyTopics
from schemas.base import Frozen
from schemas.envelope import OutboundEvent
from schemas.errors import ReplyTopicRefused
from schemas.record import Record
from schemas.rpc import ReplyTarget, read_target

NO_SUCH_PLACE = (
    "the reply topic or partition does not exist or takes no reply; mend it or name another"
)


class Reply(Frozen):
    """One reply; only the parts of a stream have a `sequence`.

    `at` is the event's time if it is known, so that a repeat has the same time; otherwise now.
    """

    topic: str
    event_id: str
    data: dict[str, Any]
    error: str | None = None
    final: bool = True
    sequence: int | None = None
    traceparent: str | None = None
    at: datetime | None = None


class Replies:
    """Builds replies for the topics that requests ask for."""

    def __init__(
        self,
        source: str,
        topic_name: Callable[[str], str],
        allowed: Sequence[str],
        clock: Callable[[], datetime],
    ) -> None:
        self._source = source
        self._topic_name = topic_name
        self._reply_topics = ReplyTopics(topic_name, allowed)
        self._clock = clock

    def target(self, record: Record, default: str) -> ReplyTarget:
        """Return where a request wants its reply; by default the catalogue's topic `default`.

        Raises ReplyTopicRefused for a topic that the allow-list does not permit.
        """
        target = read_target(record)
        ours = self._topic_name(default)
        if target.topic is None:
            return target.model_copy(update={"topic": ours, "partition": None})
        if target.topic != ours and not self._reply_topics.permit(target.topic):
            raise ReplyTopicRefused
        return target

    def publication(self, target: ReplyTarget, reply: Reply) -> Publication:
        """Encode a reply; it carries the request's key and correlation id unchanged."""
        event = OutboundEvent(
            topic=reply.topic,
            key="",
            id=reply.event_id,
            source=self._source,
            time=reply.at or self._clock(),
            data=reply.data,
            traceparent=reply.traceparent,
        )
        headers = event.headers() + target.headers(
            final=reply.final, error=reply.error, sequence=reply.sequence
        )
        ours = self._topic_name(reply.topic)
        return Publication(
            topic=target.topic or ours,
            is_elsewhere=target.topic not in (None, ours),
            key=target.key,
            value=event.value(),
            headers=tuple(headers),
            partition=target.partition,
        )


def error_header(code: str, message: str) -> str:
    """Encode an error for NestJS's header `kafka_nest-err`: JSON of the thrown object."""
    return json.dumps({"code": code, "message": message}, ensure_ascii=False)
