"""One completion in progress: a thread runs llama.cpp, the event loop reads its output."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from pipeline.hosting.server.completions.task import CompletionTask
from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.go_template.prompt import fit_prompt
from pipeline.hosting.server.runners.runner import Runner
from pipeline.hosting.server.runners.scheduler import Scheduler
from pipeline.hosting.server.runners.usage import TokenLogprob, Usage


@dataclass(frozen=True, slots=True)
class TextChunk:
    """Some text of an answer, with its tokens' probabilities if they were requested."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class CompletionResult:
    """How a completion ended; durations in nanoseconds."""

    usage: Usage
    load_ns: int
    total_ns: int


class CompletionStream:
    """A completion in progress. A reader that leaves must cancel it, or llama.cpp continues."""

    def __init__(self, scheduler: Scheduler, task: CompletionTask, *, streams: bool) -> None:
        self._scheduler = scheduler
        self._task = task
        self._streams = streams
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[TextChunk | CompletionResult | BaseException] = asyncio.Queue()
        self._first: TextChunk | CompletionResult | None = None
        self._is_cancelled = threading.Event()

    async def start(self, executor: Executor, on_end: Callable[[], object]) -> None:
        """Start in a thread of `executor`; return when the first event can be read.

        Args:
            executor: one of its threads waits for llama.cpp.
            on_end: called in the event loop when llama.cpp is done, before the result is read.

        Raises:
            Refusal: the completion failed before its first event.
        """
        executor.submit(self._run, on_end)
        self._first = await self._next()

    async def render(self, executor: Executor) -> str:
        """Load the model and return the prompt that it would be given, without completing it.

        Raises:
            Refusal: the model cannot be loaded.
        """
        return await self._loop.run_in_executor(executor, self._render)

    def cancel(self) -> None:
        """Stop after the current token. May be called at any time, more than once."""
        self._is_cancelled.set()

    async def events(self) -> AsyncIterator[TextChunk | CompletionResult]:
        """Yield the chunks and finally the result; call `start` first.

        Raises:
            Refusal: the completion failed midway.
        """
        event = self._first
        while event is not None:
            yield event
            event = None if isinstance(event, CompletionResult) else await self._next()

    async def _next(self) -> TextChunk | CompletionResult:
        event = await self._events.get()
        if isinstance(event, BaseException):
            raise event
        return event

    def _run(self, on_end: Callable[[], object]) -> None:
        """Run the completion in a thread and deliver its result or error to the event loop."""
        last: CompletionResult | BaseException
        try:
            last = self._complete()
        except BaseException as error:  # raised again by `events`
            last = error

        def end() -> None:
            on_end()
            self._events.put_nowait(last)

        self._loop.call_soon_threadsafe(end)

    def _complete(self) -> CompletionResult:
        began = time.monotonic_ns()
        pieces: list[TextChunk] = []
        take: Callable[[TextChunk], None] = self._send if self._streams else pieces.append
        logprobs: list[TokenLogprob] = []

        def on_piece(text: str) -> bool:
            if text:
                take(TextChunk(text, tuple(logprobs)))
                logprobs.clear()
            return self._is_cancelled.is_set()

        task = self._task
        with self._scheduler.acquire(task.model, task.options.num_ctx) as runner:
            loaded = time.monotonic_ns()
            if self._is_cancelled.is_set():
                raise Refusal(499, "request canceled")
            usage = runner.complete(
                self._prompt(runner),
                task.options,
                adapters=task.model.adapters,
                cuts=task.cuts,
                schema=task.schema,
                on_piece=on_piece,
                top_logprobs=task.top_logprobs or 0,
                on_logprobs=None if task.top_logprobs is None else logprobs.extend,
            )
        if pieces:
            self._send(_join(pieces))
        return CompletionResult(usage, loaded - began, time.monotonic_ns() - began)

    def _render(self) -> str:
        task = self._task
        with self._scheduler.acquire(task.model, task.options.num_ctx) as runner:
            return self._prompt(runner)

    def _prompt(self, runner: Runner) -> str:
        task = self._task
        if task.prompt is not None:
            return task.prompt
        if not task.cuts:
            return task.template.render(task.turns)
        # The runner may have less context than requested. Left to it, the cut could remove part of
        # the system prompt.
        limit = min(task.options.num_ctx, runner.context)
        return fit_prompt(task.template, task.turns, limit, runner.count_tokens)

    def _send(self, piece: TextChunk) -> None:
        self._loop.call_soon_threadsafe(self._events.put_nowait, piece)


def _join(pieces: Sequence[TextChunk]) -> TextChunk:
    return TextChunk(
        "".join(piece.text for piece in pieces),
        tuple(token for piece in pieces for token in piece.logprobs),
    )
