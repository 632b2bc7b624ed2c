"""The bodies of `/api/show`, `/api/tags` and `/api/ps`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.hosting.server.models.manifest import Manifest
from pipeline.weights.gguf_file import Weights

_PARAMETER_COLUMN = 30
_NOT_SHOWN = {"general.name", "tokenizer.chat_template"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory: its tokens of context, and when it is unloaded if no request comes."""

    model: Manifest
    context: int
    expires_at: datetime


def describe(model: Manifest, weights: Weights) -> dict[str, Any]:
    """Return the body of `/api/show`."""
    info = {key: value for key, value in weights.metadata.items() if key not in _NOT_SHOWN}
    told = {
        "license": "\n".join(model.licenses),
        "system": model.system,
        "messages": [turn.model_dump() for turn in model.messages],
    }
    return {key: value for key, value in told.items() if value} | {
        "modelfile": _as_modelfile(model),
        "parameters": "\n".join(
            f"{name:<{_PARAMETER_COLUMN}} {value}" for name, value in _parameter_lines(model)
        ),
        "template": model.template,
        "details": _details(model) | {"parent_model": model.parent},
        "model_info": info | {"general.parameter_count": weights.parameter_count},
        "capabilities": _capabilities(weights),
        "modified_at": model.modified_at,
    }


def list_models(models: Iterable[tuple[Manifest, Weights]]) -> dict[str, Any]:
    """Return the body of `/api/tags`."""
    return {"models": [_listed(model, weights) for model, weights in models]}


def list_loaded(loaded: Iterable[Loaded]) -> dict[str, Any]:
    """Return the body of `/api/ps`, the model that stays longest first."""
    longest_first = sorted(loaded, key=lambda each: each.expires_at, reverse=True)
    return {
        "models": [
            _entry(each.model)
            | {
                "expires_at": each.expires_at.isoformat().replace("+00:00", "Z"),
                "size_vram": 0,
                "context_length": each.context,
            }
            for each in longest_first
        ]
    }


def _listed(model: Manifest, weights: Weights) -> dict[str, Any]:
    sizes = {"context_length": weights.context_length, "embedding_length": weights.embedding_length}
    details = _details(model) | {"parent_model": model.parent}
    return _entry(model) | {
        "modified_at": model.modified_at,
        "details": details | {key: value for key, value in sizes.items() if value is not None},
        "capabilities": _capabilities(weights),
    }


def _capabilities(weights: Weights) -> list[str]:
    return ["embedding"] if weights.has_pooling else ["completion"]


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
            # JSON numbers may arrive as floats; Ollama writes whole ones as integers.
            is_whole = isinstance(each, float) and each.is_integer()
            yield name, json.dumps(int(each) if is_whole else each, ensure_ascii=False)


def _as_modelfile(model: Manifest) -> str:
    lines = [f"FROM {model.parent or model.base}"]
    lines += [f"ADAPTER {digest}" for digest in model.adapters]
    lines += [f'TEMPLATE """{model.template}"""']
    lines += [f'SYSTEM """{model.system}"""'] if model.system else []
    lines += [f"PARAMETER {name} {value}" for name, value in _parameter_lines(model)]
    lines += [f"MESSAGE {turn.role} {json.dumps(turn.content)}" for turn in model.messages]
    lines += [f'LICENSE """{text}"""' for text in model.licenses]
    return "\n".join(lines) + "\n"
