"""`/api/create` and `/api/copy`: from a request to a manifest."""

import hashlib
import json
import logging
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pipeline.hosting.server.conversation import Turn
from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.go_template.prompt import compile_template
from pipeline.hosting.server.go_template.syntax import TemplateError
from pipeline.hosting.server.models.creation_files import (
    FileKind,
    check_quantizable,
    check_quantization,
    check_request,
    find_kind,
    only_digest,
    read_licenses,
    take_adapter,
    take_weights,
)
from pipeline.hosting.server.models.manifest import Manifest
from pipeline.hosting.server.models.names import ModelName
from pipeline.hosting.server.models.store import Store
from pipeline.hosting.server.profile import Profile
from pipeline.hosting.server.request_bodies import CreateRequest
from pipeline.weights.gguf_file import Weights

_LOG = logging.getLogger(__name__)
# What Ollama uses if the request names none.
DEFAULT_TEMPLATE: Final = "{{ .Prompt }}"
_UNITS: Final = ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0))
# The digest identifies the content, so a copy under another name has the same one.
_NOT_IN_DIGEST: Final = {"name", "digest", "modified_at"}


def create_model(
    store: Store, profile: Profile, request: CreateRequest
) -> Generator[str, None, frozenset[str]]:
    """Create a model and yield the status lines that Ollama sends.

    Returns:
        The blobs that were deleted with the model it replaces.

    Raises:
        Refusal: 4xx, the request is wrong; 500, a file is missing or damaged, or `from` names an
            unknown model. Some status lines may have been yielded before.
    """
    check_request(profile, request)
    name = ModelName.parse(request.model)
    kind = find_kind(store, profile, request)
    check_quantization(profile, request, kind)
    start = yield from _start(store, profile, request, kind)
    adapters = start.adapters
    if request.adapters is not None and profile.takes_adapters:
        adapters += take_adapter(store, request.adapters, start.base)
    if request.quantize:
        check_quantizable(start.quantization, request.quantize)
    manifest = start.model_copy(update={"adapters": adapters, **_overrides(request, start)})
    _check_template(manifest)
    removed = store.save(_seal(store, manifest, name))
    yield from (f"using existing layer {digest}" for digest in (start.base, *adapters))
    yield "writing manifest"
    yield "success"
    return removed


def copy_model(store: Store, source: str, destination: str) -> frozenset[str]:
    """Give a model a second name, replacing the model that had it.

    Returns:
        The blobs that were deleted with the model it replaces.

    Raises:
        Refusal: 404, the source is unknown; 400, a name is invalid.
    """
    try:
        manifest = store.find(source)
    except Refusal as error:
        raise Refusal(error.status, f'model "{source}" not found') from error
    return store.save(_seal(store, manifest, ModelName.parse(destination)))


def _start(
    store: Store, profile: Profile, request: CreateRequest, kind: FileKind
) -> Generator[str, None, Manifest]:
    """Return the manifest that the request's own fields are then applied to."""
    if request.base:
        return (yield from _start_from_model(store, profile, request))
    if request.files is None:
        raise Refusal(400, "neither 'from' or 'files' was specified")
    if kind != "gguf":
        raise Refusal(400, "unknown type")
    yield "parsing GGUF"
    weights = take_weights(store, profile, request.files)
    return _manifest_of(only_digest(request.files), weights)


def _start_from_model(
    store: Store, profile: Profile, request: CreateRequest
) -> Generator[str, None, Manifest]:
    parent = ModelName.parse(request.base)
    try:
        manifest = store.find(request.base)
    except Refusal as error:
        yield "pulling manifest"
        # Ollama would try to pull it; without a network that fails with 500, too.
        message = f"pull model manifest: '{request.base}' is not here, and there is no registry"
        raise Refusal(500, message) from error
    if manifest.adapters and not profile.takes_adapters:
        _LOG.warning("the adapter of %s is carried over; a new one is refused", manifest.name)
    return manifest.model_copy(update={"parent": str(parent)})


def _manifest_of(digest: str, weights: Weights) -> Manifest:
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


def _overrides(request: CreateRequest, start: Manifest) -> dict[str, Any]:
    """Return the manifest fields that the request sets; absent ones keep their value."""
    licenses = read_licenses(request.license)
    messages = tuple(Turn(role=m.role, content=m.content) for m in request.messages or ())
    return {
        "template": request.template or start.template,
        "system": request.system or start.system,
        "parameters": start.parameters | _without_none(request.parameters or {}),
        "messages": messages or start.messages,
        "licenses": start.licenses + licenses,
    }


def _check_template(manifest: Manifest) -> None:
    try:
        compile_template(manifest.template)
    except TemplateError as error:
        raise Refusal(400, f"template error: {error}") from error


def _seal(store: Store, manifest: Manifest, name: ModelName) -> Manifest:
    """Return the manifest with name, digest, size and time filled in."""
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


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _human_number(number: int) -> str:
    for unit, letter, digits in _UNITS:
        if number >= unit:
            exact = number % unit == 0
            return f"{number / unit:.{0 if exact else digits}f}{letter}"
    return str(number)
