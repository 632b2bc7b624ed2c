"""What comes in, what goes out, and what lies on disk: Ollama's shapes, as far as they are used.

Requests ignore unknown fields, as Ollama does; a wrong type is a 400.
"""

from typing import Any

from pydantic import AliasChoices, Field

from schemas.base import Frozen, Inbound


class Message(Inbound):
    """One turn of a conversation."""

    role: str
    content: str = ""
    images: tuple[str, ...] | None = None
    tool_calls: tuple[dict[str, Any], ...] | None = None


class ModelRequest(Inbound):
    """A request about one model, by its name (`name` is Ollama's old word for it)."""

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


class AnswerRequest(ModelRequest):
    """What `/api/chat` and `/api/generate` have in common."""

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
        """Whether the answer comes in pieces: yes, unless told otherwise."""
        return self.stream is not False


class ChatRequest(AnswerRequest):
    """`POST /api/chat`."""

    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] | None = None


class GenerateRequest(AnswerRequest):
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


class Turn(Frozen):
    """A message that a model carries with it."""

    role: str
    content: str


class Manifest(Frozen):
    """A model on disk: which blobs it is made of, and all that `create` was told."""

    name: str
    digest: str
    modified_at: str
    size: int
    base: str
    adapters: tuple[str, ...]
    parent: str
    template: str
    system: str
    parameters: dict[str, Any]
    messages: tuple[Turn, ...]
    licenses: tuple[str, ...]
    architecture: str
    parameter_size: str
    quantization: str

    @property
    def blobs(self) -> frozenset[str]:
        """All blobs that this model needs."""
        return frozenset((self.base, *self.adapters))


class TokenLogprob(Frozen):
    """A token with the logarithm of its probability; `top` has the likeliest in its place."""

    token: str
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


class Usage(Frozen):
    """How an answer was made; durations in nanoseconds."""

    done_reason: str
    prompt_tokens: int
    prompt_ns: int
    answer_tokens: int
    answer_ns: int
    cached_tokens: int | None = None
    """Of the prompt's tokens, how many were known from an earlier request; None: not told."""
