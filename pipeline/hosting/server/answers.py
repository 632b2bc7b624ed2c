"""One answer in the making: a thread runs llama.cpp, the event loop reads."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.options import Options
from pipeline.hosting.server.rendering import PromptTemplate, fit_prompt
from pipeline.hosting.server.runners import Runners
from pipeline.hosting.server.shapes import Manifest, Turn, Usage


@dataclass(frozen=True, slots=True)
class Question:
    """All that makes an answer: the model, the conversation or raw prompt, how to answer."""

    model: Manifest
    options: Options
    prompt: str | None
    """A prompt as it stands; None: the turns, through the template."""
    turns: Sequence[Turn]
    template: PromptTemplate
    cuts: bool
    """Whether what is too long for the context is cut; else it is refused."""
    schema: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an answer ended; durations in nanoseconds."""

    usage: Usage
    load_ns: int
    total_ns: int


class Answer:
    """An answer that is being made. Whoever leaves must cancel it: llama.cpp goes on otherwise."""

    def __init__(self, runners: Runners, question: Question, *, in_pieces: bool) -> None:
        self._runners = runners
        self._question = question
        self._in_pieces = in_pieces
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[str | Outcome | BaseException] = asyncio.Queue()
        self._first: str | Outcome | None = None
        self._is_cancelled = threading.Event()

    async def start(self, executor: Executor) -> None:
        """Start, and return when there is something to read.

        Raises:
            Refusal: there will be nothing, for this reason.
        """
        executor.submit(self._make).add_done_callback(self._send_failure)
        self._first = await self._next()

    def cancel(self) -> None:
        """Stop after the token that is being made; may be called at any time."""
        self._is_cancelled.set()

    async def events(self) -> AsyncIterator[str | Outcome]:
        """Yield the pieces of text, and the outcome last; started answers only.

        Raises:
            Refusal: it failed on the way.
        """
        event = self._first
        while event is not None:
            yield event
            event = None if isinstance(event, Outcome) else await self._next()

    async def _next(self) -> str | Outcome:
        event = await self._events.get()
        if isinstance(event, BaseException):
            raise event
        return event

    def _send_failure(self, future: Future[None]) -> None:
        error = future.exception()
        if error is not None:
            self._send(error)

    def _make(self) -> None:
        began = time.monotonic_ns()
        pieces: list[str] = []
        take: Callable[[str], None] = self._send if self._in_pieces else pieces.append

        def on_piece(text: str) -> bool:
            if text:
                take(text)
            return self._is_cancelled.is_set()

        question = self._question
        with self._runners.acquire(question.model, question.options.num_ctx) as runner:
            loaded = time.monotonic_ns()
            if self._is_cancelled.is_set():
                raise Refusal(499, "request canceled")
            usage = runner.complete(
                self._prompt(runner.count_tokens),
                question.options,
                adapters=question.model.adapters,
                cuts=question.cuts,
                schema=question.schema,
                on_piece=on_piece,
            )
        if pieces:
            self._send("".join(pieces))
        self._send(Outcome(usage, loaded - began, time.monotonic_ns() - began))

    def _prompt(self, count_tokens: Callable[[str], int]) -> str:
        question = self._question
        if question.prompt is not None:
            return question.prompt
        if not question.cuts:
            return question.template.render(question.turns)
        return fit_prompt(question.template, question.turns, question.options.num_ctx, count_tokens)

    def _send(self, event: str | Outcome | BaseException) -> None:
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)
