"""`/api/chat` and `/api/generate` as HTTP: whole or line by line, until the client leaves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pipeline.hosting.server.answers import Answer, Outcome, Question
from pipeline.hosting.server.bodies import json_line, json_response, now, read_body
from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.questions import chat_question, generate_question
from pipeline.hosting.server.runners import DEFAULT_CONTEXT, Runners
from pipeline.hosting.server.shapes import AnswerRequest, ChatRequest, GenerateRequest, Manifest
from pipeline.hosting.server.store import Store

# Turns a piece of text into the fields that carry it: chat and generate differ only in these.
_Wrap = Callable[[str], dict[str, Any]]


class Replies:
    """The two routes that let a model speak."""

    def __init__(self, store: Store, runners: Runners, executor: Executor) -> None:
        """Put it together.

        Args:
            executor: where llama.cpp is waited for; as many threads as answers at once.
        """
        self._store = store
        self._runners = runners
        self._executor = executor

    async def chat(self, request: Request) -> Response:
        """`POST /api/chat`."""
        asked = await read_body(request, ChatRequest)
        model = self._store.find(asked.model)
        if not asked.messages:
            return await self._load(asked, model, _as_message)
        return await self._answer(request, asked, chat_question(model, asked), _as_message)

    async def generate(self, request: Request) -> Response:
        """`POST /api/generate`."""
        asked = await read_body(request, GenerateRequest)
        model = self._store.find(asked.model)
        if not asked.prompt:
            return await self._load(asked, model, _as_response)
        return await self._answer(request, asked, generate_question(model, asked), _as_response)

    async def _load(self, asked: AnswerRequest, model: Manifest, wrap: _Wrap) -> Response:
        """Load or unload a model: what a request without a prompt asks for."""
        if asked.unloads:
            await asyncio.to_thread(self._runners.unload, model)
        else:
            await asyncio.to_thread(self._load_runner, model)
        reason = "unload" if asked.unloads else "load"
        return json_response(_head(asked) | wrap("") | {"done": True, "done_reason": reason})

    def _load_runner(self, model: Manifest) -> None:
        with self._runners.acquire(model, DEFAULT_CONTEXT):
            pass

    async def _answer(
        self, request: Request, asked: AnswerRequest, question: Question, wrap: _Wrap
    ) -> Response:
        answer = Answer(self._runners, question, in_pieces=asked.wants_stream)
        watcher = asyncio.create_task(_cancel_when_gone(request, answer))
        try:
            await answer.start(self._executor)
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

    async def _reply_whole(self, asked: AnswerRequest, answer: Answer, wrap: _Wrap) -> Response:
        text = ""
        async for event in answer.events():
            if isinstance(event, Outcome):
                body = _head(asked) | wrap(text) | _tail(event)
            else:
                text += event
        await self._after(asked)
        return json_response(body)

    async def _lines(
        self, asked: AnswerRequest, answer: Answer, wrap: _Wrap, watcher: asyncio.Task[None]
    ) -> AsyncIterator[str]:
        try:
            async for event in answer.events():
                if isinstance(event, Outcome):
                    yield json_line(_head(asked) | wrap("") | _tail(event))
                else:
                    yield json_line(_head(asked) | wrap(event) | {"done": False})
        except Refusal as error:
            # The status code has been sent; Ollama, too, says it in the last line.
            yield json_line({"error": error.sentence})
        finally:
            answer.cancel()
            watcher.cancel()
        await self._after(asked)

    async def _after(self, asked: AnswerRequest) -> None:
        if asked.unloads:
            await asyncio.to_thread(self._runners.unload, self._store.find(asked.model))


async def _cancel_when_gone(request: Request, answer: Answer) -> None:
    """Wait until the client leaves: nobody else would stop llama.cpp."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    answer.cancel()


def _head(asked: AnswerRequest) -> dict[str, Any]:
    return {"model": asked.model, "created_at": now()}


def _as_message(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}}


def _as_response(text: str) -> dict[str, Any]:
    return {"response": text}


def _tail(outcome: Outcome) -> dict[str, Any]:
    return {
        "done": True,
        "done_reason": outcome.usage.done_reason,
        "total_duration": outcome.total_ns,
        "load_duration": outcome.load_ns,
        "prompt_eval_count": outcome.usage.prompt_tokens,
        "prompt_eval_duration": outcome.usage.prompt_ns,
        "eval_count": outcome.usage.answer_tokens,
        "eval_duration": outcome.usage.answer_ns,
    }
