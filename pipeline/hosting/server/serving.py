"""How an ASGI application is served: one way for all programs that speak Ollama's API."""

import uvicorn
from starlette.types import ASGIApp


def configure_server(
    app: ASGIApp, *, grace_s: float, host: str = "127.0.0.1", port: int = 0
) -> uvicorn.Config:
    """Return the server's configuration; requests under way have `grace_s` at the end.

    Nothing of a request is logged here.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=max(int(grace_s), 1),
    )
