"""The routes: Ollama's paths, status codes and bodies. No prompt and no answer is logged."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pipeline.hosting.server.bodies import answer_refusal, json_line, json_response, read_body
from pipeline.hosting.server.creation import copy_model, create_model
from pipeline.hosting.server.description import describe, list_loaded, list_models
from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.replies import Replies
from pipeline.hosting.server.runners import Runners
from pipeline.hosting.server.shapes import (
    CopyRequest,
    CreateRequest,
    EmbedRequest,
    Manifest,
    ModelRequest,
)
from pipeline.hosting.server.store import Store

# The version whose API this is; what follows the plus says that it is not Ollama itself.
VERSION: Final = "0.24.0+embedded"


def build_app(store: Store, runners: Runners, executor: Executor) -> Starlette:
    """Return the ASGI application."""
    replies, models = Replies(store, runners, executor), _Models(store, runners)
    return Starlette(
        routes=[
            # The two in whose speed somebody is interested come first.
            Route("/api/chat", replies.chat, methods=["POST"]),
            Route("/api/generate", replies.generate, methods=["POST"]),
            Route("/", _say_hello),
            Route("/api/version", _say_version),
            Route("/api/tags", models.list),
            Route("/api/ps", models.list_loaded),
            Route("/api/show", models.show, methods=["POST"]),
            Route("/api/blobs/{digest}", models.has_blob, methods=["HEAD"]),
            Route("/api/blobs/{digest}", models.take_blob, methods=["POST"]),
            Route("/api/create", models.create, methods=["POST"]),
            Route("/api/copy", models.copy, methods=["POST"]),
            Route("/api/delete", models.delete, methods=["DELETE"]),
            Route("/api/embed", models.embed, methods=["POST"]),
        ],
        exception_handlers={Refusal: answer_refusal},
    )


async def _say_hello(_request: Request) -> Response:
    return PlainTextResponse("Ollama is running")


async def _say_version(_request: Request) -> Response:
    return json_response({"version": VERSION})


class _Models:
    """The routes about models and their blobs."""

    def __init__(self, store: Store, runners: Runners) -> None:
        self._store = store
        self._runners = runners

    async def list(self, _request: Request) -> Response:
        return json_response(list_models(self._store.models()))

    async def list_loaded(self, _request: Request) -> Response:
        return json_response(list_loaded(self._find_loaded()))

    async def show(self, request: Request) -> Response:
        model = self._store.find((await read_body(request, ModelRequest)).model)
        weights = await asyncio.to_thread(self._store.weights, model.base)
        return json_response(describe(model, weights))

    async def has_blob(self, request: Request) -> Response:
        found = self._store.has_blob(request.path_params["digest"])
        return Response(status_code=200 if found else 404)

    async def take_blob(self, request: Request) -> Response:
        digest = request.path_params["digest"]
        if self._store.has_blob(digest):
            return Response(status_code=200)
        with self._store.upload(digest) as upload:
            async for block in request.stream():
                upload.write(block)
            await asyncio.to_thread(upload.finish)
        return Response(status_code=201)

    async def create(self, request: Request) -> Response:
        asked = await read_body(request, CreateRequest)
        steps = await asyncio.to_thread(create_model, self._store, asked)
        if not asked.stream:
            return json_response({"status": steps[-1]})
        lines = "".join(json_line({"status": step}) for step in steps)
        return Response(lines, media_type="application/x-ndjson")

    async def copy(self, request: Request) -> Response:
        asked = await read_body(request, CopyRequest)
        await asyncio.to_thread(copy_model, self._store, asked.source, asked.destination)
        return Response(status_code=200)

    async def delete(self, request: Request) -> Response:
        name = (await read_body(request, ModelRequest)).model
        orphans = await asyncio.to_thread(self._store.delete, name)
        await asyncio.to_thread(self._runners.drop, orphans)
        return Response(status_code=200)

    async def embed(self, request: Request) -> Response:
        began = time.monotonic_ns()
        asked = await read_body(request, EmbedRequest)
        model = self._store.find(asked.model)
        texts = [asked.input] if isinstance(asked.input, str) else list(asked.input)
        if not any(texts):
            return json_response({"model": asked.model, "embeddings": []})
        embedded = await asyncio.to_thread(_embed, self._runners, model, texts, asked.dimensions)
        vectors, tokens, loaded = embedded
        return json_response(
            {
                "model": asked.model,
                "embeddings": vectors,
                "total_duration": time.monotonic_ns() - began,
                "load_duration": loaded - began,
                "prompt_eval_count": tokens,
            }
        )

    def _find_loaded(self) -> Iterator[tuple[Manifest, int]]:
        models = {model.name: model for model in self._store.models()}
        for name, context in self._runners.loaded():
            if name in models:
                yield models[name], context


def _embed(
    runners: Runners, model: Manifest, texts: list[str], dimensions: int | None
) -> tuple[list[list[float]], int, int]:
    """Return the vectors, the tokens, and when the model was loaded."""
    with runners.acquire_embedder(model) as runner:
        loaded = time.monotonic_ns()
        return *runner.embed(texts, dimensions), loaded
