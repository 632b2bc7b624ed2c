"""The uvicorn configuration that all programs with Ollama's API share."""

import uvicorn
from starlette.types import ASGIApp


def configure_server(
    app: ASGIApp, *, grace_s: float, host: str = "127.0.0.1", port: int = 0
) -> uvicorn.Config:
    """Return the server's configuration.

    uvicorn logs no requests. At shutdown, requests in flight may continue for `grace_s`.
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
