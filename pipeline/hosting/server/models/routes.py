"""The routes about models and blobs, and `/api/embed`."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from pipeline.hosting.server.errors import Refusal, model_not_found
from pipeline.hosting.server.json_bodies import json_line, json_response, read_body
from pipeline.hosting.server.keep_alive import KeepAliveTimers, read_keep_alive
from pipeline.hosting.server.models.creation import copy_model, create_model
from pipeline.hosting.server.models.description import Loaded, describe, list_loaded, list_models
from pipeline.hosting.server.models.manifest import Manifest
from pipeline.hosting.server.models.names import ModelName
from pipeline.hosting.server.models.store import Store
from pipeline.hosting.server.profile import Profile
from pipeline.hosting.server.request_bodies import (
    CopyRequest,
    CreateRequest,
    EmbedRequest,
    ModelRequest,
)
from pipeline.hosting.server.runners.scheduler import Scheduler

_NO_EMBEDDINGS: Final = "This server does not support embeddings. Start it with `--embeddings`"


class ModelRoutes:
    """Handlers of the routes; each raises Refusal for an error response."""

    def __init__(
        self, store: Store, scheduler: Scheduler, keep_alive: KeepAliveTimers, profile: Profile
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._keep_alive = keep_alive
        self._profile = profile

    async def version(self, _request: Request) -> Response:
        """`GET /api/version`."""
        return json_response({"version": self._profile.version})

    async def list_all(self, _request: Request) -> Response:
        """`GET /api/tags`."""
        return json_response(await asyncio.to_thread(self._list))

    async def list_loaded(self, _request: Request) -> Response:
        """`GET /api/ps`."""
        return json_response(list_loaded(self._find_loaded()))

    async def show(self, request: Request) -> Response:
        """`POST /api/show`."""
        name = _required((await read_body(request, ModelRequest)).model)
        model = self._store.find(str(ModelName.parse(name)))
        weights = await asyncio.to_thread(self._store.weights, model.base)
        return json_response(describe(model, weights))

    async def has_blob(self, request: Request) -> Response:
        """`HEAD /api/blobs/{digest}`."""
        found = self._store.has_blob(request.path_params["digest"])
        return Response(status_code=200 if found else 404)

    async def take_blob(self, request: Request) -> Response:
        """`POST /api/blobs/{digest}`; the body is the blob."""
        digest = request.path_params["digest"]
        if self._store.has_blob(digest):
            return Response(status_code=200)
        with self._store.upload(digest) as upload:
            async for block in request.stream():
                upload.write(block)
            await asyncio.to_thread(upload.finish)
        return Response(status_code=201)

    async def create(self, request: Request) -> Response:
        """`POST /api/create`."""
        asked = await read_body(request, CreateRequest)
        steps, refusal = await asyncio.to_thread(self._create, asked)
        if refusal is not None and not (asked.stream and steps):
            raise refusal
        if not asked.stream:
            return json_response({"status": steps[-1]})
        lines = [{"status": step} for step in steps]
        if refusal is not None:
            # The first line carried status 200; Ollama reports the error in the last line, too.
            lines.append({"error": refusal.message})
        return Response("".join(map(json_line, lines)), media_type="application/x-ndjson")

    async def copy(self, request: Request) -> Response:
        """`POST /api/copy`."""
        asked = await read_body(request, CopyRequest)
        _require_name("source", asked.source)
        _require_name("destination", asked.destination)
        removed = await asyncio.to_thread(copy_model, self._store, asked.source, asked.destination)
        await asyncio.to_thread(self._scheduler.drop, removed)
        return Response(status_code=200)

    async def delete(self, request: Request) -> Response:
        """`DELETE /api/delete`."""
        name = _required((await read_body(request, ModelRequest)).model)
        _require_name("name", name)
        orphans = await asyncio.to_thread(self._store.delete, name)
        await asyncio.to_thread(self._scheduler.drop, orphans)
        return Response(status_code=200)

    async def embed(self, request: Request) -> Response:
        """`POST /api/embed`."""
        began = time.monotonic_ns()
        asked = await read_body(request, EmbedRequest)
        read_keep_alive(asked.keep_alive)
        texts, model = _texts(asked.input), self._find_embedder(asked.model)
        if not any(texts):
            return json_response({"model": asked.model, "embeddings": []})
        if not self._store.weights(model.base).has_pooling:
            raise Refusal(501, _NO_EMBEDDINGS)
        embedded = await asyncio.to_thread(_embed, self._scheduler, model, texts, asked.dimensions)
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
        self._scheduler.drop(removed)

    def _find_embedder(self, name: str) -> Manifest:
        try:
            return self._store.find(name)
        except Refusal as error:
            if error.status != model_not_found(name).status:
                raise
            raise Refusal(404, f'model "{name}" not found, try pulling it first') from error

    def _find_loaded(self) -> Iterator[Loaded]:
        for name, context in self._scheduler.loaded():
            # A runner may outlive the model that it served last.
            with suppress(Refusal):
                model = self._store.find(name)
                if (expires_at := self._keep_alive.expires_at(model.base)) is not None:
                    yield Loaded(model, context, expires_at)


def _embed(
    scheduler: Scheduler, model: Manifest, texts: list[str], dimensions: int | None
) -> tuple[list[list[float]], int, int]:
    """Return the vectors, the number of tokens, and the monotonic time (ns) after the load."""
    with scheduler.acquire_embedder(model) as runner:
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
