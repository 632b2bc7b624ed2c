"""Turns a chat or generate request into a task for llama.cpp, or refuses it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.hosting.server.completions.options import Options, read_options
from pipeline.hosting.server.conversation import Turn
from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.go_template.prompt import PromptTemplate, compile_template
from pipeline.hosting.server.go_template.syntax import TemplateError
from pipeline.hosting.server.models.manifest import Manifest
from pipeline.hosting.server.profile import Profile
from pipeline.hosting.server.request_bodies import ChatRequest, GenerateRequest, PromptRequest


@dataclass(frozen=True, slots=True)
class CompletionTask:
    """Everything a completion depends on: model, conversation or raw prompt, options."""

    model: Manifest
    options: Options
    prompt: str | None
    """A raw prompt; None if `turns` are to be rendered by `template`."""
    turns: Sequence[Turn]
    template: PromptTemplate
    cuts: bool
    """Whether a prompt that exceeds the context is cut; otherwise it is refused."""
    schema: dict[str, Any] | None
    top_logprobs: int | None = None
    """How many of the likeliest tokens are reported per position; None for no probabilities."""


def build_chat_task(profile: Profile, model: Manifest, request: ChatRequest) -> CompletionTask:
    """Return the task of a `/api/chat` request.

    Raises:
        Refusal: 400, it asks for tools, images or thinking; 500, as in Ollama, if an option or
            the format is wrong.
    """
    if request.tools:
        raise Refusal(400, f"{request.model} does not support tools")
    if any(message.images for message in request.messages):
        raise Refusal(400, f"{request.model} does not support images")
    own = (*model.messages, *(Turn(role=m.role, content=m.content) for m in request.messages))
    begins_with_system = bool(request.messages) and request.messages[0].role == "system"
    turns = own if begins_with_system else _with_system(model, own)
    return _build_task(profile, model, request, None, turns)


def build_generate_task(
    profile: Profile, model: Manifest, request: GenerateRequest
) -> CompletionTask:
    """Return the task of a `/api/generate` request.

    Raises:
        Refusal: 400, it asks for images, a suffix or thinking; 500, as in Ollama, if an option,
            the format or the template is wrong.
    """
    if request.images:
        raise Refusal(400, f"{request.model} does not support images")
    if request.suffix:
        raise Refusal(400, f"{request.model} does not support insert")
    if request.raw:
        if request.template or request.system:
            raise Refusal(400, "raw mode does not support template, system, or context")
        return _build_task(profile, model, request, request.prompt, ())
    turns = _with_system(model, (*model.messages, Turn(role="user", content=request.prompt)))
    if request.system:
        turns = (Turn(role="system", content=request.system), *_without_system(turns))
    return _build_task(profile, model, request, None, turns, request.template)


def _build_task(
    profile: Profile,
    model: Manifest,
    request: PromptRequest,
    prompt: str | None,
    turns: tuple[Turn, ...],
    template: str = "",
) -> CompletionTask:
    if request.think:
        raise Refusal(400, f'"{request.model}" does not support thinking')
    if not profile.takes_typical_p and (request.options or {}).get("typical_p") is not None:
        raise Refusal(400, "typical_p is no longer supported")
    return CompletionTask(
        model=model,
        options=read_options(model.parameters, request.options),
        prompt=prompt,
        turns=turns,
        template=_compile(template or model.template),
        cuts=request.truncate is not False,
        schema=_schema(request.format),
        top_logprobs=request.top_logprobs if request.logprobs else None,
    )


def _with_system(model: Manifest, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    return (Turn(role="system", content=model.system), *turns) if model.system else turns


def _without_system(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    return turns[1:] if turns[0].role == "system" else turns


def _schema(format_: Any) -> dict[str, Any] | None:
    if isinstance(format_, dict):
        return format_
    if format_ in (None, ""):
        return None
    if format_ == "json":
        return {"type": "object"}
    raise Refusal(500, f'invalid format: "{format_}"; expected "json" or a JSON Schema object')


def _compile(source: str) -> PromptTemplate:
    try:
        return compile_template(source)
    except TemplateError as error:
        raise Refusal(500, f"template error: {error}") from error
