"""`/api/create` and `/api/copy`: from a request to a manifest."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pipeline.hosting.server.failures import Refusal
from pipeline.hosting.server.names import ModelName, parse_digest
from pipeline.hosting.server.options import read_options
from pipeline.hosting.server.rendering import compile_template
from pipeline.hosting.server.shapes import CreateRequest, Manifest, Turn
from pipeline.hosting.server.store import Store
from pipeline.hosting.server.template import TemplateError
from pipeline.hosting.server.weights import require_fit

# What Ollama gives a model that brings none.
DEFAULT_TEMPLATE: Final = "{{ .Prompt }}"
_UNITS: Final = ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0))
# What makes a model what it is; its name and its age do not, so a copy has the same digest.
_NOT_IN_DIGEST: Final = {"name", "digest", "modified_at"}


def create_model(store: Store, request: CreateRequest) -> list[str]:
    """Make a model and return the steps, in Ollama's words.

    Raises:
        Refusal: 400, the request is wrong; 500, `from` names a model that is not here.
    """
    name = ModelName.parse(request.model)
    if request.quantize:
        raise Refusal(400, "quantization is not supported by the embedded server; use Ollama")
    start = _start_from_model(store, request) if request.base else _start_from_files(store, request)
    adapters = start.adapters + _adapters(store, request, start.base)
    manifest = start.model_copy(update={"adapters": adapters, **_told(request, start)})
    _check(manifest)
    store.save(_seal(store, manifest, name))
    layers = [f"using existing layer {digest}" for digest in (start.base, *adapters)]
    return ["parsing GGUF", *layers, "writing manifest", "success"]


def copy_model(store: Store, source: str, destination: str) -> None:
    """Give a model a second name; one that had that name is replaced.

    Raises:
        Refusal: 404, there is no such source; 400, a name is none.
    """
    manifest = store.find(source)
    store.save(_seal(store, manifest, ModelName.parse(destination)))


def _start_from_model(store: Store, request: CreateRequest) -> Manifest:
    parent = ModelName.parse(request.base)
    try:
        manifest = store.find(request.base)
    except Refusal as error:
        # Ollama would try to pull it now; offline that ends with a 500, too.
        sentence = f"pull model manifest: '{request.base}' is not here, and there is no registry"
        raise Refusal(500, sentence) from error
    return manifest.model_copy(update={"parent": str(parent)})


def _start_from_files(store: Store, request: CreateRequest) -> Manifest:
    if request.files is None:
        raise Refusal(400, "neither 'from' or 'files' was specified")
    if len(request.files) != 1:
        raise Refusal(400, "exactly one GGUF file makes a model here")
    digest = _only_digest(request.files)
    weights = store.weights(digest)
    if weights.is_adapter:
        raise Refusal(400, "the file is an adapter; give it as one, with a model as 'from'")
    return Manifest(
        name="",
        digest="",
        modified_at="",
        size=0,
        base=digest,
        adapters=(),
        parent="",
        template=DEFAULT_TEMPLATE,
        system="",
        parameters={},
        messages=(),
        licenses=(),
        architecture=weights.architecture,
        parameter_size=_human_number(weights.parameter_count),
        quantization=weights.quantization,
    )


def _adapters(store: Store, request: CreateRequest, base: str) -> tuple[str, ...]:
    if not request.adapters:
        return ()
    if len(request.adapters) > 1:
        raise Refusal(400, "only one adapter is currently supported")
    digest = _only_digest(request.adapters)
    require_fit(store.weights(digest), store.weights(base))
    return (digest,)


def _told(request: CreateRequest, start: Manifest) -> dict[str, Any]:
    """Return what the request says itself; what it leaves out stays as it was."""
    licenses = (request.license,) if isinstance(request.license, str) else request.license
    messages = tuple(Turn(role=m.role, content=m.content) for m in request.messages or ())
    return {
        "template": request.template or start.template,
        "system": request.system or start.system,
        "parameters": start.parameters | _without_none(request.parameters or {}),
        "messages": messages or start.messages,
        "licenses": start.licenses + tuple(text for text in licenses or () if text),
    }


def _check(manifest: Manifest) -> None:
    read_options(manifest.parameters)
    try:
        compile_template(manifest.template)
    except TemplateError as error:
        raise Refusal(400, f"template error: {error}") from error


def _seal(store: Store, manifest: Manifest, name: ModelName) -> Manifest:
    """Return the manifest with its name, digest, size and time."""
    content = manifest.model_dump(mode="json", exclude=_NOT_IN_DIGEST | {"size"})
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return manifest.model_copy(
        update={
            "name": str(name),
            "digest": digest,
            "modified_at": datetime.now(UTC).isoformat(),
            "size": sum(store.blob_path(d).stat().st_size for d in manifest.blobs),
        }
    )


def _only_digest(files: Mapping[str, str]) -> str:
    ((path, digest),) = files.items()
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise Refusal(400, "file path must be relative")
    return parse_digest(digest)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _human_number(number: int) -> str:
    for unit, letter, digits in _UNITS:
        if number >= unit:
            exact = number % unit == 0
            return f"{number / unit:.{0 if exact else digits}f}{letter}"
    return str(number)
