"""From a chat or generate request to a question for llama.cpp; what cannot be done is refused."""

from typing import Any

from pipeline.hosting.server.answers import Question
from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.options import read_options
from pipeline.hosting.server.profile import Profile
from pipeline.hosting.server.rendering import PromptTemplate, compile_template
from pipeline.hosting.server.shapes import (
    AnswerRequest,
    ChatRequest,
    GenerateRequest,
    Manifest,
    Turn,
)
from pipeline.hosting.server.template import TemplateError


def chat_question(profile: Profile, model: Manifest, request: ChatRequest) -> Question:
    """Return the question of `/api/chat`.

    Raises:
        Refusal: 400, it asks for tools, images or thinking; 500 as in Ollama, an option or the
            format is wrong.
    """
    if request.tools:
        raise Refusal(400, f"{request.model} does not support tools")
    if any(message.images for message in request.messages):
        raise Refusal(400, f"{request.model} does not support images")
    own = (*model.messages, *(Turn(role=m.role, content=m.content) for m in request.messages))
    begins_with_system = bool(request.messages) and request.messages[0].role == "system"
    turns = own if begins_with_system else _with_system(model, own)
    return _question(profile, model, request, None, turns)


def generate_question(profile: Profile, model: Manifest, request: GenerateRequest) -> Question:
    """Return the question of `/api/generate`.

    Raises:
        Refusal: 400, it asks for images, a suffix or thinking; 500 as in Ollama, an option, the
            format or the template is wrong.
    """
    if request.images:
        raise Refusal(400, f"{request.model} does not support images")
    if request.suffix:
        raise Refusal(400, f"{request.model} does not support insert")
    if request.raw:
        if request.template or request.system:
            raise Refusal(400, "raw mode does not support template, system, or context")
        return _question(profile, model, request, request.prompt, ())
    turns = _with_system(model, (*model.messages, Turn(role="user", content=request.prompt)))
    if request.system:
        turns = (Turn(role="system", content=request.system), *_without_system(turns))
    return _question(profile, model, request, None, turns, request.template)


def _question(
    profile: Profile,
    model: Manifest,
    request: AnswerRequest,
    prompt: str | None,
    turns: tuple[Turn, ...],
    template: str = "",
) -> Question:
    if request.think:
        raise Refusal(400, f'"{request.model}" does not support thinking')
    if not profile.takes_typical_p and (request.options or {}).get("typical_p") is not None:
        raise Refusal(400, "typical_p is no longer supported")
    return Question(
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
