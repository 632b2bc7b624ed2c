"""The JSON bodies of requests, as far as this server uses their fields.

Unknown fields are ignored, as in Ollama; a wrong type is answered with 400.
"""

from typing import Any

from pydantic import AliasChoices, Field

from schemas.base import Inbound


class Message(Inbound):
    """A message in a request."""

    role: str
    content: str = ""
    images: tuple[str, ...] | None = None
    tool_calls: tuple[dict[str, Any], ...] | None = None


class ModelRequest(Inbound):
    """A request about one model. `name` is the deprecated alias of `model`."""

    model: str = Field(default="", validation_alias=AliasChoices("model", "name"))


class CreateRequest(ModelRequest):
    """`POST /api/create`."""

    base: str = Field(default="", validation_alias="from")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    template: str = ""
    system: str = ""
    parameters: dict[str, Any] | None = None
    messages: tuple[Message, ...] | None = None
    license: Any = None
    quantize: str = ""
    stream: bool = True


class PromptRequest(ModelRequest):
    """The fields that `/api/chat` and `/api/generate` share."""

    options: dict[str, Any] | None = None
    format: Any = None
    keep_alive: float | str | bool | None = None
    stream: bool | None = None
    think: bool | str | None = None
    truncate: bool | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    only_renders: bool = Field(default=False, validation_alias="_debug_render_only")

    @property
    def wants_stream(self) -> bool:
        """Whether the answer is streamed, which is the default."""
        return self.stream is not False


class ChatRequest(PromptRequest):
    """`POST /api/chat`."""

    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] | None = None


class GenerateRequest(PromptRequest):
    """`POST /api/generate`."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    raw: bool = False
    images: tuple[str, ...] | None = None


class EmbedRequest(ModelRequest):
    """`POST /api/embed`."""

    input: Any = None
    truncate: bool | None = None
    dimensions: int | None = None
    keep_alive: float | str | bool | None = None


class CopyRequest(Inbound):
    """`POST /api/copy`."""

    source: str = ""
    destination: str = ""
