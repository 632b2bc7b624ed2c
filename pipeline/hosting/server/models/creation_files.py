"""Checks the files of a create request, in Ollama's order and with its error messages.

The order depends on `Profile.checks_files_first`: newer versions check all files before they
begin, older ones check each file when they use it.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from pipeline.hosting.server.errors import Refusal, UnsupportedFile
from pipeline.hosting.server.models.names import parse_digest
from pipeline.hosting.server.models.store import Store
from pipeline.hosting.server.profile import Profile
from pipeline.hosting.server.request_bodies import CreateRequest
from pipeline.weights.adapter_fit import UnfitAdapter, require_fit
from pipeline.weights.gguf_file import Weights

FileKind = Literal["gguf", "safetensors", ""]
ADAPTERS_REFUSED: Final = "LoRA adapters are no longer supported"
_NOT_QUANTIZED: Final = (
    "create-time quantization is only supported for safetensors imports; "
    "quantize GGUF models with llama.cpp tools before importing"
)
_UNQUANTIZED: Final = frozenset({"F16", "BF16", "F32"})
_QUANTIZATIONS: Final = ("F32", "F16", "Q4_K_S", "Q4_K_M", "Q8_0")
_MAGIC: Final = b"GGUF"


def check_request(profile: Profile, request: CreateRequest) -> None:
    """Check what can be checked without opening a file.

    Raises:
        Refusal: 400, the request is wrong; older versions answer 500 for a wrong license.
    """
    if not profile.takes_typical_p and (request.parameters or {}).get("typical_p") is not None:
        raise Refusal(400, "typical_p is no longer supported")
    for path, digest in (request.files or {}).items():
        _check_file(profile, path, digest)
    if request.adapters and not profile.takes_adapters:
        raise Refusal(400, ADAPTERS_REFUSED)
    if any(not digest for digest in (request.adapters or {}).values()):
        raise Refusal(400, "invalid digest format")
    try:
        read_licenses(request.license)
    except Refusal as error:
        raise Refusal(400 if profile.checks_files_first else 500, error.message) from error


def find_kind(store: Store, profile: Profile, request: CreateRequest) -> FileKind:
    """Return the kind of the request's files; empty if there are none or the kind is unknown.

    Raises:
        Refusal: 400, the kinds differ, or a file without a telling extension is missing.
    """
    kinds = {
        _kind_of(store, profile, path, digest) for path, digest in (request.files or {}).items()
    } - {""}
    if len(kinds) > 1:
        raise Refusal(400, "mixed model file types: found both gguf and safetensors inputs")
    return kinds.pop() if kinds else ""


def check_quantization(profile: Profile, request: CreateRequest, kind: FileKind) -> None:
    """Refuse a quantization that the imitated version never does.

    Raises:
        Refusal: 400, the request asks for one.
    """
    if request.quantize and not profile.quantizes_gguf and (kind == "gguf" or request.base):
        raise Refusal(400, _NOT_QUANTIZED)


def check_quantizable(quantization: str, wanted: str) -> None:
    """Refuse a quantization with the error of the versions that can quantize.

    Raises:
        Refusal: always; 400 where Ollama would succeed, as this server cannot quantize.
    """
    if wanted.upper() not in _QUANTIZATIONS:
        known = ", ".join(_QUANTIZATIONS)
        message = f"unsupported quantization type {wanted.upper()} - supported types are {known}"
        raise Refusal(500, message)
    if quantization not in _UNQUANTIZED:
        raise Refusal(500, "quantization is only supported for F16, BF16 and F32 models")
    raise Refusal(400, "this server does not quantize; use llama.cpp's tools, or Ollama")


def take_weights(store: Store, profile: Profile, files: Mapping[str, str]) -> Weights:
    """Return the header of the only file of a base or merged model.

    Raises:
        Refusal: 400, it is an adapter or there are several files; 500, it is missing or damaged.
        UnsupportedFile: it is not GGUF.
    """
    digest = only_digest(files)
    try:
        weights = store.weights(digest)
    except UnsupportedFile as error:
        if profile.checks_files_first:
            raise Refusal(500, "unsupported file type") from error
        raise
    if weights.is_adapter:
        # Ollama 0.32 would create a model that cannot be loaded.
        raise Refusal(400, f"{ADAPTERS_REFUSED}: {next(iter(files))} is a LoRA adapter")
    return weights


def take_adapter(store: Store, adapters: Mapping[str, str], base: str) -> tuple[str, ...]:
    """Check that the request's adapter fits the base, and return its digest.

    Raises:
        Refusal: 400, it does not fit, is missing or damaged, or there is not exactly one.
    """
    if len(adapters) > 1:
        raise Refusal(400, "only one adapter is currently supported")
    if not adapters:
        raise Refusal(400, "unknown type")
    digest = only_digest(adapters)
    try:
        require_fit(store.weights(digest), store.weights(base))
    except UnfitAdapter as error:
        raise Refusal(400, str(error)) from error
    except Refusal as error:
        raise Refusal(400, error.message) from error
    return (digest,)


def read_licenses(license_: Any) -> tuple[str, ...]:
    """Return the texts of a request's `license` field.

    Raises:
        Refusal: 400, it is neither a string nor a list of strings.
    """
    texts = [license_] if isinstance(license_, str) else license_ or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refusal(400, "license must be a string or a list of strings")
    return tuple(text for text in texts if text)


def only_digest(files: Mapping[str, str]) -> str:
    """Return the digest of the only file.

    Raises:
        Refusal: 400, there are several; split models are not supported.
    """
    if len(files) != 1:
        raise Refusal(400, "exactly one GGUF file makes a model here")
    ((_path, digest),) = files.items()
    return parse_digest(digest)


def _check_file(profile: Profile, path: str, digest: str) -> None:
    if not path or path.startswith("/") or any(p in ("", ".", "..") for p in path.split("/")):
        message = "file path must be relative"
        raise Refusal(400, f"{message}: {path}" if profile.checks_files_first else message)
    if not digest:
        raise Refusal(400, "invalid digest format")
    try:
        parse_digest(digest)
    except Refusal as error:
        if profile.checks_files_first:
            raise Refusal(400, f"invalid digest for {path}: {error.message}") from error
        raise Refusal(500, error.message) from error


def _kind_of(store: Store, profile: Profile, path: str, digest: str) -> FileKind:
    for kind in ("gguf", "safetensors"):
        if path.endswith(f".{kind}"):
            return "gguf" if kind == "gguf" else "safetensors"
    if not store.has_blob(digest):
        if profile.checks_files_first:
            raise Refusal(400, f"blob not found for {path} (digest {parse_digest(digest)})")
        return ""
    with store.blob_path(digest).open("rb") as file:
        return "gguf" if file.read(len(_MAGIC)) == _MAGIC else ""
