"""One answer in the making: a thread runs llama.cpp, the event loop reads."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.options import Options
from pipeline.hosting.server.rendering import PromptTemplate, fit_prompt
from pipeline.hosting.server.runner import Runner
from pipeline.hosting.server.runners import Runners
from pipeline.hosting.server.shapes import Manifest, TokenLogprob, Turn, Usage


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
    top_logprobs: int | None = None
    """How many likeliest tokens are told for each place; None: no probabilities at all."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of an answer, with its tokens' probabilities where they were asked for."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


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
        self._events: asyncio.Queue[Piece | Outcome | BaseException] = asyncio.Queue()
        self._first: Piece | Outcome | None = None
        self._is_cancelled = threading.Event()

    async def start(self, executor: Executor, on_end: Callable[[], object]) -> None:
        """Start, and return when there is something to read.

        Args:
            on_end: called in the event loop when llama.cpp has ended, before the outcome can be
                read.

        Raises:
            Refusal: there will be nothing, for this reason.
        """
        executor.submit(self._run, on_end)
        self._first = await self._next()

    async def render(self, executor: Executor) -> str:
        """Load the model, and return the prompt that it would be asked.

        Raises:
            Refusal: it cannot be loaded.
        """
        return await self._loop.run_in_executor(executor, self._render)

    def cancel(self) -> None:
        """Stop after the token that is being made; may be called at any time."""
        self._is_cancelled.set()

    async def events(self) -> AsyncIterator[Piece | Outcome]:
        """Yield the pieces of text, and the outcome last; started answers only.

        Raises:
            Refusal: it failed on the way.
        """
        event = self._first
        while event is not None:
            yield event
            event = None if isinstance(event, Outcome) else await self._next()

    async def _next(self) -> Piece | Outcome:
        event = await self._events.get()
        if isinstance(event, BaseException):
            raise event
        return event

    def _run(self, on_end: Callable[[], object]) -> None:
        """Make the answer, in a thread; whatever happens, somebody may be waiting for it."""
        last: Outcome | BaseException
        try:
            last = self._make()
        except BaseException as error:  # raised again where it is waited for
            last = error

        def end() -> None:
            on_end()
            self._events.put_nowait(last)

        self._loop.call_soon_threadsafe(end)

    def _make(self) -> Outcome:
        began = time.monotonic_ns()
        pieces: list[Piece] = []
        take: Callable[[Piece], None] = self._send if self._in_pieces else pieces.append
        logprobs: list[TokenLogprob] = []

        def on_piece(text: str) -> bool:
            if text:
                take(Piece(text, tuple(logprobs)))
                logprobs.clear()
            return self._is_cancelled.is_set()

        question = self._question
        with self._runners.acquire(question.model, question.options.num_ctx) as runner:
            loaded = time.monotonic_ns()
            if self._is_cancelled.is_set():
                raise Refusal(499, "request canceled")
            usage = runner.complete(
                self._prompt(runner),
                question.options,
                adapters=question.model.adapters,
                cuts=question.cuts,
                schema=question.schema,
                on_piece=on_piece,
                top_logprobs=question.top_logprobs or 0,
                on_logprobs=None if question.top_logprobs is None else logprobs.extend,
            )
        if pieces:
            self._send(_join(pieces))
        return Outcome(usage, loaded - began, time.monotonic_ns() - began)

    def _render(self) -> str:
        question = self._question
        with self._runners.acquire(question.model, question.options.num_ctx) as runner:
            return self._prompt(runner)

    def _prompt(self, runner: Runner) -> str:
        question = self._question
        if question.prompt is not None:
            return question.prompt
        if not question.cuts:
            return question.template.render(question.turns)
        # A runner may have less than was asked for; it would cut through the system's words.
        limit = min(question.options.num_ctx, runner.context)
        return fit_prompt(question.template, question.turns, limit, runner.count_tokens)

    def _send(self, piece: Piece) -> None:
        self._loop.call_soon_threadsafe(self._events.put_nowait, piece)


def _join(pieces: Sequence[Piece]) -> Piece:
    return Piece(
        "".join(piece.text for piece in pieces),
        tuple(token for piece in pieces for token in piece.logprobs),
    )
