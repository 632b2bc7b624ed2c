"""JSON bodies in and out, in Ollama's manner."""

import json
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from pipeline.hosting.server.failures import Refusal

_Shape = TypeVar("_Shape", bound=BaseModel)


async def read_body(request: Request, shape: type[_Shape]) -> _Shape:
    """Read a request's body, whatever its content type says, as Ollama does.

    Raises:
        Refusal: 400, there is none, it is no JSON, or a field is wrong.
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
    """Return JSON as Go writes it: no spaces, text as it is."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def now() -> str:
    """Return the time in RFC 3339, in UTC."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


async def answer_refusal(_request: Request, error: Exception) -> Response:
    """Answer with Ollama's error body."""
    assert isinstance(error, Refusal)
    return json_response({"error": error.sentence}, error.status)
