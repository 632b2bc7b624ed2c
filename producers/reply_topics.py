"""The reply-topic allow-list: which topics a request may name for its reply.

Whoever may send a request must not be able to make this service publish to other topics: those
that our consumers read, those of our events and dead letters, and the broker's internal ones. No
pattern of the allow-list opens these.
"""

import re
from collections.abc import Callable, Sequence

from schemas.topics import CATALOGUE, CHAT_REPLIES, DEAD_LETTER_SUFFIX, MODEL_REPLIES

# Kafka's rule for a topic's name. The client reports a longer name as if Kafka were down, and
# raises ValueError for a NUL.
_LEGAL_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


class ReplyTopics:
    """Decides about reply topics; `allowed` are patterns that must match the whole name."""

    def __init__(self, topic_name: Callable[[str], str], allowed: Sequence[str]) -> None:
        self._allowed = [re.compile(pattern) for pattern in allowed]
        closed = [topic_name(t.name) for t in CATALOGUE if t not in (CHAT_REPLIES, MODEL_REPLIES)]
        self._closed = frozenset(closed)

    def permit(self, topic: str) -> bool:
        """Say whether a reply may go to a topic, by the broker's name."""
        if _LEGAL_NAME.fullmatch(topic) is None:
            return False
        # By convention a broker's internal topics begin with an underscore.
        if topic.startswith("_") or topic.removesuffix(DEAD_LETTER_SUFFIX) in self._closed:
            return False
        return any(pattern.fullmatch(topic) for pattern in self._allowed)
