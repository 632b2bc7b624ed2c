"""`/api/chat` and `/api/generate` as HTTP: whole or line by line, until the client leaves."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pipeline.hosting.server.answers import Answer, Outcome, Piece, Question
from pipeline.hosting.server.bodies import json_line, json_response, now, read_body
from pipeline.hosting.server.failures import Refusal, model_not_found
from pipeline.hosting.server.options import read_options
from pipeline.hosting.server.profile import Profile
from pipeline.hosting.server.questions import chat_question, generate_question
from pipeline.hosting.server.runners import Runners
from pipeline.hosting.server.shapes import (
    AnswerRequest,
    ChatRequest,
    GenerateRequest,
    Manifest,
    TokenLogprob,
)
from pipeline.hosting.server.stays import Stays, read_keep_alive
from pipeline.hosting.server.store import Store

_MAX_TOP_LOGPROBS: Final = 20
# Turns a piece of text into the fields that carry it: chat and generate differ only in these.
_Wrap = Callable[[str], dict[str, Any]]


class Replies:
    """The two routes that let a model speak."""

    def __init__(
        self, store: Store, runners: Runners, stays: Stays, profile: Profile, executor: Executor
    ) -> None:
        """Put it together.

        Args:
            executor: where llama.cpp is waited for; as many threads as answers at once.
        """
        self._store = store
        self._runners = runners
        self._stays = stays
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
        question = chat_question(self._profile, model, asked)
        return await self._answer(request, asked, question, _as_message)

    async def generate(self, request: Request) -> Response:
        """`POST /api/generate`."""
        asked = await read_body(request, GenerateRequest)
        _check(asked)
        if not asked.model:
            raise model_not_found("")
        model = self._find(asked, "generate")
        if not asked.prompt:
            return await self._load(asked, model, _as_response)
        question = generate_question(self._profile, model, asked)
        return await self._answer(request, asked, question, _as_response)

    def _find(self, asked: AnswerRequest, what: str) -> Manifest:
        model = self._store.find(asked.model)
        if self._store.weights(model.base).has_pooling:
            raise Refusal(400, f'"{asked.model}" does not support {what}')
        return model

    async def _load(self, asked: AnswerRequest, model: Manifest, wrap: _Wrap) -> Response:
        """Load or unload a model: what a request without a prompt asks for."""
        length_s = read_keep_alive(asked.keep_alive)
        if length_s == 0:
            self._stays.leave(model.base)
        else:
            context = read_options(model.parameters, asked.options).num_ctx
            self._stays.begin(model.base, length_s)
            try:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._executor, self._load_runner, model, context)
            finally:
                self._stays.end(model.base)
        reason = "unload" if length_s == 0 else "load"
        return json_response(_head(asked) | wrap("") | {"done": True, "done_reason": reason})

    def _load_runner(self, model: Manifest, context: int) -> None:
        with self._runners.acquire(model, context):
            pass

    async def _answer(
        self, request: Request, asked: AnswerRequest, question: Question, wrap: _Wrap
    ) -> Response:
        base = question.model.base
        answer = Answer(self._runners, question, in_pieces=asked.wants_stream)
        self._stays.begin(base, read_keep_alive(asked.keep_alive))
        if asked.only_renders:
            return await self._render(asked, answer, base)
        watcher = asyncio.create_task(_cancel_when_gone(request, answer))
        try:
            await answer.start(self._executor, partial(self._stays.end, base))
            if not asked.wants_stream:
                return await self._reply_whole(asked, answer, wrap)
        except BaseException:
            answer.cancel()
            raise
        finally:
            if not asked.wants_stream:
                watcher.cancel()
        lines = self._lines(asked, answer, wrap, watcher)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def _render(self, asked: AnswerRequest, answer: Answer, base: str) -> Response:
        """Answer with the prompt in place of a reply, as whole JSON in either mode."""
        try:
            prompt = await answer.render(self._executor)
        finally:
            self._stays.end(base)
        nothing = (
            {"message": {"role": "", "content": ""}}
            if isinstance(asked, ChatRequest)
            else {"response": ""}
        )
        told = {"done": False, "_debug_info": {"rendered_template": prompt}}
        return json_response(_head(asked) | nothing | told)

    async def _reply_whole(self, asked: AnswerRequest, answer: Answer, wrap: _Wrap) -> Response:
        text, logprobs = "", list[TokenLogprob]()
        async for event in answer.events():
            if isinstance(event, Outcome):
                body = _head(asked) | wrap(text) | self._tail(event) | _told(asked, logprobs)
            else:
                text += event.text
                logprobs += event.logprobs
        return json_response(body)

    async def _lines(
        self, asked: AnswerRequest, answer: Answer, wrap: _Wrap, watcher: asyncio.Task[None]
    ) -> AsyncIterator[str]:
        try:
            async for event in answer.events():
                yield json_line(_head(asked) | self._line(asked, event, wrap))
        except Refusal as error:
            # The status code has been sent; Ollama, too, says it in the last line.
            yield json_line({"error": error.sentence})
        finally:
            answer.cancel()
            watcher.cancel()

    def _line(self, asked: AnswerRequest, event: Piece | Outcome, wrap: _Wrap) -> dict[str, Any]:
        if isinstance(event, Outcome):
            return wrap("") | self._tail(event)
        return wrap(event.text) | {"done": False} | _told(asked, event.logprobs)

    def _tail(self, outcome: Outcome) -> dict[str, Any]:
        usage = outcome.usage
        cached = {"prompt_eval_cached_count": usage.cached_tokens}
        is_counted = self._profile.counts_cached_tokens and usage.cached_tokens is not None
        return {
            "done": True,
            "done_reason": usage.done_reason,
            "total_duration": outcome.total_ns,
            "load_duration": outcome.load_ns,
            "prompt_eval_count": usage.prompt_tokens,
            **(cached if is_counted else {}),
            "prompt_eval_duration": usage.prompt_ns,
            "eval_count": usage.answer_tokens,
            "eval_duration": usage.answer_ns,
        }


async def _cancel_when_gone(request: Request, answer: Answer) -> None:
    """Wait until the client leaves: nobody else would stop llama.cpp."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    answer.cancel()


def _check(asked: AnswerRequest) -> None:
    read_keep_alive(asked.keep_alive)
    if not 0 <= asked.top_logprobs <= _MAX_TOP_LOGPROBS:
        raise Refusal(400, f"top_logprobs must be between 0 and {_MAX_TOP_LOGPROBS}")


def _head(asked: AnswerRequest) -> dict[str, Any]:
    return {"model": asked.model, "created_at": now()}


def _as_message(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}}


def _as_response(text: str) -> dict[str, Any]:
    return {"response": text}


def _told(asked: AnswerRequest, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return the field with the probabilities, if there are any."""
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
