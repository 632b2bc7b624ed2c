"""What is said about models: `/api/show`, `/api/tags`, `/api/ps`."""

import json
from collections.abc import Iterable
from typing import Any

from pipeline.hosting.server.shapes import Manifest
from pipeline.hosting.server.weights import Weights

_PARAMETER_COLUMN = 30
_NOT_SHOWN = {"general.name", "tokenizer.chat_template"}
# Nothing is unloaded by the clock; Ollama shows a time as far away for `keep_alive` -1.
_NEVER = "2318-01-01T00:00:00Z"


def describe(model: Manifest, weights: Weights) -> dict[str, Any]:
    """Return the body of `/api/show`."""
    info = {key: value for key, value in weights.metadata.items() if key not in _NOT_SHOWN}
    return {
        "license": "\n".join(model.licenses),
        "modelfile": _as_modelfile(model),
        "parameters": "\n".join(
            f"{name:<{_PARAMETER_COLUMN}} {value}" for name, value in _parameter_lines(model)
        ),
        "template": model.template,
        "system": model.system,
        "details": _details(model) | {"parent_model": model.parent},
        "messages": [turn.model_dump() for turn in model.messages],
        "model_info": info | {"general.parameter_count": weights.parameter_count},
        "capabilities": ["embedding"] if weights.has_pooling else ["completion"],
        "modified_at": model.modified_at,
    }


def list_models(models: Iterable[Manifest]) -> dict[str, Any]:
    """Return the body of `/api/tags`."""
    return {"models": [_entry(model) | {"modified_at": model.modified_at} for model in models]}


def list_loaded(models: Iterable[tuple[Manifest, int]]) -> dict[str, Any]:
    """Return the body of `/api/ps`, of models and their contexts."""
    return {
        "models": [
            _entry(model) | {"expires_at": _NEVER, "size_vram": 0, "context_length": context}
            for model, context in models
        ]
    }


def _entry(model: Manifest) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        "size": model.size,
        "digest": model.digest,
        "details": _details(model),
    }


def _details(model: Manifest) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.architecture,
        "families": [model.architecture],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization,
    }


def _parameter_lines(model: Manifest) -> Iterable[tuple[str, str]]:
    for name, value in model.parameters.items():
        for each in value if isinstance(value, list | tuple) else (value,):
            yield name, json.dumps(each, ensure_ascii=False)


def _as_modelfile(model: Manifest) -> str:
    lines = [f"FROM {model.parent or model.base}"]
    lines += [f"ADAPTER {digest}" for digest in model.adapters]
    lines += [f'TEMPLATE """{model.template}"""']
    lines += [f'SYSTEM """{model.system}"""'] if model.system else []
    lines += [f"PARAMETER {name} {value}" for name, value in _parameter_lines(model)]
    lines += [f"MESSAGE {turn.role} {json.dumps(turn.content)}" for turn in model.messages]
    lines += [f'LICENSE """{text}"""' for text in model.licenses]
    return "\n".join(lines) + "\n"
