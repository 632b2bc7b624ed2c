"""`/api/chat` and `/api/generate`: whole or streamed answers, cancelled if the client leaves."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pipeline.hosting.server.completions.options import read_options
from pipeline.hosting.server.completions.stream import CompletionResult, CompletionStream, TextChunk
from pipeline.hosting.server.completions.task import (
    CompletionTask,
    build_chat_task,
    build_generate_task,
)
from pipeline.hosting.server.errors import Refusal, model_not_found
from pipeline.hosting.server.json_bodies import json_line, json_response, now, read_body
from pipeline.hosting.server.keep_alive import KeepAliveTimers, read_keep_alive
from pipeline.hosting.server.models.manifest import Manifest
from pipeline.hosting.server.models.store import Store
from pipeline.hosting.server.profile import Profile
from pipeline.hosting.server.request_bodies import ChatRequest, GenerateRequest, PromptRequest
from pipeline.hosting.server.runners.scheduler import Scheduler
from pipeline.hosting.server.runners.usage import TokenLogprob

_MAX_TOP_LOGPROBS: Final = 20
# Wraps text in the response field that carries it: the two routes' responses differ only in that.
_Wrap = Callable[[str], dict[str, Any]]


class CompletionRoutes:
    """Handlers of the two routes; each raises Refusal for an error response."""

    def __init__(
        self,
        store: Store,
        scheduler: Scheduler,
        keep_alive: KeepAliveTimers,
        profile: Profile,
        executor: Executor,
    ) -> None:
        """Store the collaborators.

        Args:
            store: the models on disk.
            scheduler: the loaded runners.
            keep_alive: is notified when a request begins and when it ends.
            profile: which server is imitated.
            executor: its threads wait for llama.cpp, one per completion in progress.
        """
        self._store = store
        self._scheduler = scheduler
        self._keep_alive = keep_alive
        self._profile = profile
        self._executor = executor

    async def chat(self, request: Request) -> Response:
        """`POST /api/chat`."""
        asked = await read_body(request, ChatRequest)
        _check(asked)
        if not asked.model:
            raise Refusal(400, "model is required")
        model = self._find(asked, "chat")
        if not asked.messages:
            return await self._load(asked, model, _as_message)
        task = build_chat_task(self._profile, model, asked)
        return await self._answer(request, asked, task, _as_message)

    async def generate(self, request: Request) -> Response:
        """`POST /api/generate`."""
        asked = await read_body(request, GenerateRequest)
        _check(asked)
        if not asked.model:
            raise model_not_found("")
        model = self._find(asked, "generate")
        if not asked.prompt:
            return await self._load(asked, model, _as_response)
        task = build_generate_task(self._profile, model, asked)
        return await self._answer(request, asked, task, _as_response)

    def _find(self, asked: PromptRequest, what: str) -> Manifest:
        model = self._store.find(asked.model)
        if self._store.weights(model.base).has_pooling:
            raise Refusal(400, f'"{asked.model}" does not support {what}')
        return model

    async def _load(self, asked: PromptRequest, model: Manifest, wrap: _Wrap) -> Response:
        """Load the model, or unload it for a `keep_alive` of 0: a request without a prompt."""
        keep_alive_s = read_keep_alive(asked.keep_alive)
        if keep_alive_s == 0:
            self._keep_alive.unload(model.base)
        else:
            context = read_options(model.parameters, asked.options).num_ctx
            self._keep_alive.begin_request(model.base, keep_alive_s)
            try:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._executor, self._load_runner, model, context)
            finally:
                self._keep_alive.end_request(model.base)
        reason = "unload" if keep_alive_s == 0 else "load"
        return json_response(_head(asked) | wrap("") | {"done": True, "done_reason": reason})

    def _load_runner(self, model: Manifest, context: int) -> None:
        with self._scheduler.acquire(model, context):
            pass

    async def _answer(
        self, request: Request, asked: PromptRequest, task: CompletionTask, wrap: _Wrap
    ) -> Response:
        base = task.model.base
        stream = CompletionStream(self._scheduler, task, streams=asked.wants_stream)
        self._keep_alive.begin_request(base, read_keep_alive(asked.keep_alive))
        if asked.only_renders:
            return await self._render(asked, stream, base)
        watcher = asyncio.create_task(_cancel_when_gone(request, stream))
        try:
            await stream.start(self._executor, partial(self._keep_alive.end_request, base))
            if not asked.wants_stream:
                return await self._reply_whole(asked, stream, wrap)
        except BaseException:
            stream.cancel()
            raise
        finally:
            if not asked.wants_stream:
                watcher.cancel()
        lines = self._lines(asked, stream, wrap, watcher)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def _render(self, asked: PromptRequest, stream: CompletionStream, base: str) -> Response:
        """Answer with the rendered prompt, as one JSON object even if a stream was requested."""
        try:
            prompt = await stream.render(self._executor)
        finally:
            self._keep_alive.end_request(base)
        nothing = (
            {"message": {"role": "", "content": ""}}
            if isinstance(asked, ChatRequest)
            else {"response": ""}
        )
        told = {"done": False, "_debug_info": {"rendered_template": prompt}}
        return json_response(_head(asked) | nothing | told)

    async def _reply_whole(
        self, asked: PromptRequest, stream: CompletionStream, wrap: _Wrap
    ) -> Response:
        text, logprobs = "", list[TokenLogprob]()
        async for event in stream.events():
            if isinstance(event, CompletionResult):
                body = (
                    _head(asked) | wrap(text) | self._tail(event) | _logprobs_field(asked, logprobs)
                )
            else:
                text += event.text
                logprobs += event.logprobs
        return json_response(body)

    async def _lines(
        self,
        asked: PromptRequest,
        stream: CompletionStream,
        wrap: _Wrap,
        watcher: asyncio.Task[None],
    ) -> AsyncIterator[str]:
        try:
            async for event in stream.events():
                yield json_line(_head(asked) | self._line(asked, event, wrap))
        except Refusal as error:
            # Status 200 has been sent; Ollama reports the error in the last line, too.
            yield json_line({"error": error.message})
        finally:
            stream.cancel()
            watcher.cancel()

    def _line(
        self, asked: PromptRequest, event: TextChunk | CompletionResult, wrap: _Wrap
    ) -> dict[str, Any]:
        if isinstance(event, CompletionResult):
            return wrap("") | self._tail(event)
        return wrap(event.text) | {"done": False} | _logprobs_field(asked, event.logprobs)

    def _tail(self, result: CompletionResult) -> dict[str, Any]:
        usage = result.usage
        cached = {"prompt_eval_cached_count": usage.cached_tokens}
        is_counted = self._profile.counts_cached_tokens and usage.cached_tokens is not None
        return {
            "done": True,
            "done_reason": usage.done_reason,
            "total_duration": result.total_ns,
            "load_duration": result.load_ns,
            "prompt_eval_count": usage.prompt_tokens,
            **(cached if is_counted else {}),
            "prompt_eval_duration": usage.prompt_ns,
            "eval_count": usage.answer_tokens,
            "eval_duration": usage.answer_ns,
        }


async def _cancel_when_gone(request: Request, stream: CompletionStream) -> None:
    """Cancel the completion when the client disconnects; nothing else would stop llama.cpp."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    stream.cancel()


def _check(asked: PromptRequest) -> None:
    read_keep_alive(asked.keep_alive)
    if not 0 <= asked.top_logprobs <= _MAX_TOP_LOGPROBS:
        raise Refusal(400, f"top_logprobs must be between 0 and {_MAX_TOP_LOGPROBS}")


def _head(asked: PromptRequest) -> dict[str, Any]:
    return {"model": asked.model, "created_at": now()}


def _as_message(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}}


def _as_response(text: str) -> dict[str, Any]:
    return {"response": text}


def _logprobs_field(asked: PromptRequest, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return the `logprobs` field, or nothing if there are no probabilities."""
    if not logprobs:
        return {}
    count = asked.top_logprobs
    entries = [
        _entry(token) | ({"top_logprobs": [_entry(t) for t in token.top[:count]]} if count else {})
        for token in logprobs
    ]
    return {"logprobs": entries}


def _entry(token: TokenLogprob) -> dict[str, Any]:
    entry = {"token": token.token, "logprob": token.logprob}
    return entry | ({"bytes": list(token.token.encode())} if token.token else {})
