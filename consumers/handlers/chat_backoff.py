"""Backoff on the chat role's event loop: retries what failed because a dependency is down."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from config.metrics import Metrics
from consumers.kafka.backoff import Backoff
from schemas.errors import ModelServerError, RetryError
from schemas.topics import CHAT_REQUESTS

T = TypeVar("T")

log = structlog.get_logger(__name__)


async def with_backoff(
    act: Callable[[], Awaitable[T]],
    metrics: Metrics,
    retried: tuple[type[ModelServerError], ...] = (RetryError,),
) -> T:
    """Repeat `act` until it succeeds and return its result.

    Only errors of the types `retried` are retried. Each one is logged and counted, since it may
    need an operator. Any other error is raised.
    """
    backoff = Backoff()
    while True:
        try:
            return await act()
        except retried as error:
            wait_s = backoff.next_s()
            metrics.retries.labels(CHAT_REQUESTS.name, error.code).inc()
            log.warning(
                "chat.waits", code=error.code, reason=error.message, wait_s=round(wait_s, 2)
            )
        await asyncio.sleep(wait_s)
