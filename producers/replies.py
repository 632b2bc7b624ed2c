"""Replies of the request/reply topics, to wherever the request asks and the allow-list lets."""

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from producers.publisher import Publication
from schemas.base import Frozen
from schemas.envelope import OutboundEvent
from schemas.errors import ReplyTopicRefused
from schemas.record import Record
from schemas.rpc import ReplyTarget, read_target
from schemas.topics import CATALOGUE, CHAT_REPLIES, DEAD_LETTER_SUFFIX, MODEL_REPLIES

NO_SUCH_PLACE = (
    "the reply topic or partition does not exist or takes no reply; mend it or name another"
)
# What a broker lets a topic be called. The client fails on a longer name as if Kafka were down,
# and on a NUL with a fault of Python's.
_LEGAL_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


class Reply(Frozen):
    """One reply. `sequence` is given for the parts of a stream alone.

    `at` is its time where that is known, so that a repeat bears the same; else it is now.
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
    """Builds replies and guards where they go.

    Whoever may send a request must not be able to speak in our name elsewhere: to our own
    consumers, among our events and dead letters, or to a broker's internal topics. No pattern of
    the allow-list opens those.
    """

    def __init__(
        self,
        source: str,
        topic_name: Callable[[str], str],
        allowed: Sequence[str],
        clock: Callable[[], datetime],
    ) -> None:
        self._source = source
        self._topic_name = topic_name
        self._allowed = [re.compile(pattern) for pattern in allowed]
        self._clock = clock
        closed = [topic_name(t.name) for t in CATALOGUE if t not in (CHAT_REPLIES, MODEL_REPLIES)]
        self._closed = frozenset(closed)

    def target(self, record: Record, default: str) -> ReplyTarget:
        """Read where a request wants its reply; `default` is the catalogue's reply topic.

        Raises ReplyTopicRefused for a topic that is not on the allow-list.
        """
        target = read_target(record)
        ours = self._topic_name(default)
        if target.topic is None:
            return target.model_copy(update={"topic": ours, "partition": None})
        if target.topic != ours and not self._is_open(target.topic):
            raise ReplyTopicRefused
        return target

    def _is_open(self, topic: str) -> bool:
        if _LEGAL_NAME.fullmatch(topic) is None:
            return False
        # A broker's internal topics begin like this, by convention.
        if topic.startswith("_") or topic.removesuffix(DEAD_LETTER_SUFFIX) in self._closed:
            return False
        return any(pattern.fullmatch(topic) for pattern in self._allowed)

    def publication(self, target: ReplyTarget, reply: Reply) -> Publication:
        """Encode a reply, with the request's key and correlation id untouched."""
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
    """Write an error as NestJS's `kafka_nest-err` carries it: JSON of what is thrown."""
    return json.dumps({"code": code, "message": message}, ensure_ascii=False)
