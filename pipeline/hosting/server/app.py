"""The routes: Ollama's paths, status codes and bodies. No prompt and no answer is logged."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pipeline.hosting.server.bodies import answer_refusal, json_line, json_response, read_body
from pipeline.hosting.server.creation import copy_model, create_model
from pipeline.hosting.server.description import Loaded, describe, list_loaded, list_models
from pipeline.hosting.server.failures import Refusal, model_not_found
from pipeline.hosting.server.names import ModelName
from pipeline.hosting.server.profile import Profile
from pipeline.hosting.server.replies import Replies
from pipeline.hosting.server.runners import Runners
from pipeline.hosting.server.shapes import (
    CopyRequest,
    CreateRequest,
    EmbedRequest,
    Manifest,
    ModelRequest,
)
from pipeline.hosting.server.stays import Stays, read_keep_alive
from pipeline.hosting.server.store import Store

_NO_EMBEDDINGS: Final = "This server does not support embeddings. Start it with `--embeddings`"


def build_app(store: Store, runners: Runners, executor: Executor, profile: Profile) -> Starlette:
    """Return the ASGI application."""

    def unload(base: str) -> None:
        executor.submit(runners.drop, frozenset((base,)))

    stays = Stays(unload, unloads=profile.unloads)
    replies = Replies(store, runners, stays, profile, executor)
    models = _Models(store, runners, stays, profile)
    return Starlette(
        routes=[
            # The two in whose speed somebody is interested come first.
            Route("/api/chat", replies.chat, methods=["POST"]),
            Route("/api/generate", replies.generate, methods=["POST"]),
            Route("/", _say_hello),
            Route("/api/version", models.version),
            Route("/api/tags", models.list_all),
            Route("/api/ps", models.list_loaded),
            Route("/api/show", models.show, methods=["POST"]),
            Route("/api/blobs/{digest}", models.has_blob, methods=["HEAD"]),
            Route("/api/blobs/{digest}", models.take_blob, methods=["POST"]),
            Route("/api/create", models.create, methods=["POST"]),
            Route("/api/copy", models.copy, methods=["POST"]),
            Route("/api/delete", models.delete, methods=["DELETE"]),
            Route("/api/embed", models.embed, methods=["POST"]),
        ],
        exception_handlers={Refusal: answer_refusal, 404: _say_not_found, 405: _say_not_allowed},
    )


async def _say_hello(_request: Request) -> Response:
    return PlainTextResponse("Ollama is running")


async def _say_not_found(_request: Request, _error: Exception) -> Response:
    return PlainTextResponse("404 page not found", 404)


async def _say_not_allowed(_request: Request, _error: Exception) -> Response:
    return PlainTextResponse("405 method not allowed", 405)


class _Models:
    """The routes about models and their blobs."""

    def __init__(self, store: Store, runners: Runners, stays: Stays, profile: Profile) -> None:
        self._store = store
        self._runners = runners
        self._stays = stays
        self._profile = profile

    async def version(self, _request: Request) -> Response:
        return json_response({"version": self._profile.version})

    async def list_all(self, _request: Request) -> Response:
        return json_response(await asyncio.to_thread(self._list))

    async def list_loaded(self, _request: Request) -> Response:
        return json_response(list_loaded(self._find_loaded()))

    async def show(self, request: Request) -> Response:
        name = _required((await read_body(request, ModelRequest)).model)
        model = self._store.find(str(ModelName.parse(name)))
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
        steps, refusal = await asyncio.to_thread(self._create, asked)
        if refusal is not None and not (asked.stream and steps):
            raise refusal
        if not asked.stream:
            return json_response({"status": steps[-1]})
        lines = [{"status": step} for step in steps]
        if refusal is not None:
            # The status code has been sent with the first line.
            lines.append({"error": refusal.sentence})
        return Response("".join(map(json_line, lines)), media_type="application/x-ndjson")

    async def copy(self, request: Request) -> Response:
        asked = await read_body(request, CopyRequest)
        _require_name("source", asked.source)
        _require_name("destination", asked.destination)
        removed = await asyncio.to_thread(copy_model, self._store, asked.source, asked.destination)
        await asyncio.to_thread(self._runners.drop, removed)
        return Response(status_code=200)

    async def delete(self, request: Request) -> Response:
        name = _required((await read_body(request, ModelRequest)).model)
        _require_name("name", name)
        orphans = await asyncio.to_thread(self._store.delete, name)
        await asyncio.to_thread(self._runners.drop, orphans)
        return Response(status_code=200)

    async def embed(self, request: Request) -> Response:
        began = time.monotonic_ns()
        asked = await read_body(request, EmbedRequest)
        read_keep_alive(asked.keep_alive)
        texts, model = _texts(asked.input), self._find_embedder(asked.model)
        if not any(texts):
            return json_response({"model": asked.model, "embeddings": []})
        if not self._store.weights(model.base).has_pooling:
            raise Refusal(501, _NO_EMBEDDINGS)
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

    def _list(self) -> dict[str, Any]:
        models = self._store.models()
        return list_models((model, self._store.weights(model.base)) for model in models)

    def _create(self, asked: CreateRequest) -> tuple[list[str], Refusal | None]:
        steps: list[str] = []
        try:
            steps.extend(self._steps(asked))
        except Refusal as refusal:
            return steps, refusal
        return steps, None

    def _steps(self, asked: CreateRequest) -> Iterator[str]:
        removed = yield from create_model(self._store, self._profile, asked)
        self._runners.drop(removed)

    def _find_embedder(self, name: str) -> Manifest:
        try:
            return self._store.find(name)
        except Refusal as error:
            if error.status != model_not_found(name).status:
                raise
            raise Refusal(404, f'model "{name}" not found, try pulling it first') from error

    def _find_loaded(self) -> Iterator[Loaded]:
        for name, context in self._runners.loaded():
            # A runner may outlive the model that it answered for last.
            with suppress(Refusal):
                model = self._store.find(name)
                if (expires_at := self._stays.expiry(model.base)) is not None:
                    yield Loaded(model, context, expires_at)


def _embed(
    runners: Runners, model: Manifest, texts: list[str], dimensions: int | None
) -> tuple[list[list[float]], int, int]:
    """Return the vectors, the tokens, and when the model was loaded."""
    with runners.acquire_embedder(model) as runner:
        loaded = time.monotonic_ns()
        return *runner.embed(texts, dimensions), loaded


def _required(name: str) -> str:
    if not name:
        raise Refusal(400, "model is required")
    return name


def _require_name(what: str, name: str) -> None:
    try:
        ModelName.parse(name)
    except Refusal as error:
        raise Refusal(400, f'{what} "{name}" is invalid') from error


def _texts(given: object) -> list[str]:
    texts = [given] if isinstance(given, str) else given or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refusal(400, "invalid input type")
    return texts
