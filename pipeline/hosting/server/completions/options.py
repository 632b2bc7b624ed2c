"""Ollama's `options`: parsed by its rules, translated for llama.cpp."""

import math
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from pipeline.hosting.server.errors import Refusal
from schemas.base import Inbound

_MIN_CONTEXT: Final = 4
_GO_TYPES: Final = {"int": "integer", "float": "float32", "tuple": "array"}


class Options(Inbound):
    """The supported options with Ollama's defaults; others are ignored."""

    num_ctx: int = 4096
    num_keep: int = 4
    num_predict: int = -1
    seed: int = -1
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()

    def as_llama(self) -> dict[str, Any]:
        """Return the sampling fields of a completion request to llama.cpp."""
        # Without `num_predict`, the context limits the answer. Seed -1 makes llama.cpp draw one.
        limit = self.num_predict if self.num_predict >= 0 else self.num_ctx
        return self.model_dump(exclude={"num_ctx", "num_keep", "num_predict", "stop"}) | {
            "n_predict": limit,
            "stop": list(self.stop),
        }


def read_options(*layers: Mapping[str, Any] | None) -> Options:
    """Merge options; a later layer overrides an earlier one.

    Raises:
        Refusal: 500, as in Ollama, if an option has the wrong type.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= {key: value for key, value in (layer or {}).items() if value is not None}
    if isinstance(merged.get("stop"), list):
        merged["stop"] = tuple(merged["stop"])
    for name, field in Options.model_fields.items():
        value = merged.get(name)
        # Some clients send every number as a float.
        if field.annotation is int and isinstance(value, float) and math.isfinite(value):
            merged[name] = int(value)
    try:
        options = Options.model_validate(merged)
    except ValidationError as error:
        raise _wrong_type(error) from error
    return options.model_copy(update={"num_ctx": max(options.num_ctx, _MIN_CONTEXT)})


def _wrong_type(error: ValidationError) -> Refusal:
    name, *place = error.errors()[0]["loc"]
    if place:
        return Refusal(500, f'option "{name}" must be of an array of strings')
    annotation = Options.model_fields[str(name)].annotation
    word = _GO_TYPES.get(getattr(annotation, "__name__", ""), "array")
    return Refusal(500, f'option "{name}" must be of type {word}')
