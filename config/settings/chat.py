"""The settings of the chat role."""

import re
from typing import Annotated

from pydantic import Field, field_validator

from config.section import Count, Seconds, Section


class ChatSettings(Section):
    """The chat role."""

    concurrency: Annotated[int, Field(ge=1, le=1000)] = 8
    """How many requests are answered at once."""
    deadline_s: Seconds = 60.0
    """How long a reply may take if the request names no `deadline_ms`."""
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 256
    """The longest reply if the request names no `max_tokens`."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """The temperature if the request names none; 0 gives the same reply each time."""
    num_ctx: Annotated[int, Field(ge=256, le=131072)] = 2048
    """The context window, in tokens."""
    stream_interval_s: Seconds = 0.15
    """The shortest time between two parts of a streamed reply."""
    reply_topics: tuple[str, ...] = (
        r"chat-replies",
        r"model-replies",
        r"[A-Za-z0-9._-]+[.-]repl(y|ies)",
    )
    """The reply topics that a request may name: a JSON array of regular expressions, each of
    which must match the whole name."""
    dedup_hours: Count = 24
    """How long a request is remembered, so that a redelivery gets no second reply."""

    @field_validator("reply_topics")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"regular expressions; {pattern!r}: {error}") from error
        return patterns
