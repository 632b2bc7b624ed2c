"""Assembles the routes of Ollama's API. No prompt and no answer is logged."""

from concurrent.futures import Executor

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pipeline.hosting.server.completions.routes import CompletionRoutes
from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.json_bodies import answer_refusal
from pipeline.hosting.server.keep_alive import KeepAliveTimers
from pipeline.hosting.server.models.routes import ModelRoutes
from pipeline.hosting.server.models.store import Store
from pipeline.hosting.server.profile import Profile
from pipeline.hosting.server.runners.scheduler import Scheduler


def build_app(
    store: Store, scheduler: Scheduler, executor: Executor, profile: Profile
) -> Starlette:
    """Return the ASGI application.

    Args:
        store: the models on disk; the caller closes it.
        scheduler: the loaded runners; the caller closes it.
        executor: its threads wait for llama.cpp, one per completion in progress.
        profile: which server the application imitates.
    """

    def unload(base: str) -> None:
        executor.submit(scheduler.drop, frozenset((base,)))

    keep_alive = KeepAliveTimers(unload, unloads=profile.unloads)
    replies = CompletionRoutes(store, scheduler, keep_alive, profile, executor)
    models = ModelRoutes(store, scheduler, keep_alive, profile)
    return Starlette(
        routes=[
            # Routes are matched in order; the two that are latency-critical come first.
            Route("/api/chat", replies.chat, methods=["POST"]),
            Route("/api/generate", replies.generate, methods=["POST"]),
            Route("/", _root),
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
        exception_handlers={Refusal: answer_refusal, 404: _not_found, 405: _not_allowed},
    )


async def _root(_request: Request) -> Response:
    return PlainTextResponse("Ollama is running")


async def _not_found(_request: Request, _error: Exception) -> Response:
    return PlainTextResponse("404 page not found", 404)


async def _not_allowed(_request: Request, _error: Exception) -> Response:
    return PlainTextResponse("405 method not allowed", 405)
