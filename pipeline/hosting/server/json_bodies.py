"""Reads and writes JSON bodies as Ollama does."""

import json
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from pipeline.hosting.server.errors import Refusal

_Shape = TypeVar("_Shape", bound=BaseModel)


async def read_body(request: Request, shape: type[_Shape]) -> _Shape:
    """Parse a request's body into a model. The content type is ignored, as in Ollama.

    Raises:
        Refusal: 400, the body is empty, is not JSON, or has a field of the wrong type.
    """
    body = await request.body()
    if not body:
        raise Refusal(400, "missing request body")
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refusal(400, f"{where}: {first['msg']}" if where else first["msg"]) from error


def json_response(body: dict[str, Any], status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(as_json(body), status_code=status, media_type="application/json; charset=utf-8")


def json_line(body: dict[str, Any]) -> str:
    """Return one line of an NDJSON stream."""
    return as_json(body) + "\n"


def as_json(body: dict[str, Any]) -> str:
    """Serialize as Go does: without spaces, non-ASCII characters unescaped."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def now() -> str:
    """Return the current time in UTC, in RFC 3339."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


async def answer_refusal(_request: Request, error: Exception) -> Response:
    """Turn a Refusal into an error response; an exception handler of Starlette."""
    assert isinstance(error, Refusal)
    return json_response({"error": error.message}, error.status)
