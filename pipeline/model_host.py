"""The port to whatever serves the models, and Ollama behind it.

A base is registered once from its GGUF file; an elder's version is that base with an adapter and
a system prompt. Files travel as content-addressed blobs, so each is sent once.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import httpx
import ijson
import ollama

from config.settings import OllamaSettings
from schemas.base import Frozen
from schemas.errors import ArtefactCorrupt, ModelNotReady, OllamaRefused, OllamaUnavailable
from schemas.identifiers import Sha256

# An unknown base is looked for in the registry on the network, and that fails with status 500.
_UNKNOWN_BASE = "pull model manifest"
# Request Timeout and Too Many Requests, which a proxy before Ollama says: asked later it will do.
_BUSY = frozenset({408, 429})
# Who we are is refused, and not what we ask: an operator mends it, and nothing is lost meanwhile.
_STRANGER = frozenset({401, 403, 407})

Message = Mapping[str, str]
Options = Mapping[str, float | int | list[str]]


class Completion(Frozen):
    """What a model said, and the tokens it read and wrote."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class ModelRecipe(Frozen):
    """What a served model is made of; `adapter` is a GGUF LoRA file, with its hash if known."""

    base: str
    adapter: Path | None
    adapter_sha256: Sha256 | None = None
    system: str
    template: str
    stop: tuple[str, ...]


class ModelHost(Protocol):
    """Serves models by tag. Every method raises OllamaUnavailable when the host is down."""

    def ensure_base(self, name: str, gguf: Path) -> None:
        """Register a base model under `name` unless it is there."""

    def create(self, tag: str, recipe: ModelRecipe) -> None:
        """Create or replace a model; raises ModelNotReady for an unknown base.

        Raises ArtefactCorrupt, and changes nothing, where the adapter that was read has another
        hash than the recipe says, or is gone.
        """

    def ask(self, tag: str, messages: Sequence[Message], options: Options) -> Completion:
        """Ask a model; raises ModelNotReady for an unknown tag."""

    def copy(self, source: str, target: str) -> None:
        """Give a model a second name, replacing what had it; raises ModelNotReady."""

    def delete(self, tag: str) -> bool:
        """Remove a model and say whether it was there."""

    def tags(self, prefix: str = "") -> list[str]:
        """List the names of all models, or of those whose name begins with `prefix`."""

    def check(self) -> None:
        """Do nothing but ask whether the host is there."""


class OllamaHost:
    """Ollama, real or embedded."""

    def __init__(self, settings: OllamaSettings) -> None:
        self._client = ollama.Client(host=settings.host, timeout=settings.timeout_s)
        self._keep_alive = settings.keep_alive

    def close(self) -> None:
        """Close all connections."""
        self._client.close()  # type: ignore[no-untyped-call]  # the client has no py.typed

    def ensure_base(self, name: str, gguf: Path) -> None:
        """Register a base model under `name` unless it is there; sends the file at most once."""
        with ollama_errors():
            if full_tag(name) in self.tags(full_tag(name)):
                return
            digest = self._client.create_blob(gguf)
            self._client.create(model=name, files={gguf.name: digest}, stream=False)

    def create(self, tag: str, recipe: ModelRecipe) -> None:
        """Create or replace a model from its base, adapter, system prompt and template."""
        adapters: dict[str, str] | None = None
        with ollama_errors():
            if recipe.adapter is not None:
                digest = self._send(recipe.adapter)
                # Of the bytes that were sent: a file can change after it was checked.
                if recipe.adapter_sha256 not in (None, digest.removeprefix("sha256:")):
                    raise ArtefactCorrupt(f"{recipe.adapter.name} was changed; train again")
                adapters = {recipe.adapter.name: digest}
            self._client.create(
                model=tag,
                from_=recipe.base,
                adapters=adapters,
                system=recipe.system,
                template=recipe.template,
                # 1.1 in some versions of Ollama: it would punish an elder's own repetitions.
                parameters={"stop": list(recipe.stop), "temperature": 0, "repeat_penalty": 1.0},
                stream=False,
            )

    def _send(self, adapter: Path) -> str:
        try:
            return self._client.create_blob(adapter)
        except FileNotFoundError as error:
            # A later attempt at the job removed it: this one's lease is over.
            raise ArtefactCorrupt(f"{adapter.name} is gone; train again") from error

    def ask(self, tag: str, messages: Sequence[Message], options: Options) -> Completion:
        """Ask a model and wait for the whole answer."""
        with ollama_errors():
            response = self._client.chat(
                model=tag, messages=messages, options=options, keep_alive=self._keep_alive
            )
        return to_completion(response)

    def copy(self, source: str, target: str) -> None:
        """Give a model a second name."""
        with ollama_errors():
            self._client.copy(source, target)

    def delete(self, tag: str) -> bool:
        """Remove a model."""
        try:
            with ollama_errors():
                self._client.delete(tag)
        except ModelNotReady:
            return False
        return True

    def tags(self, prefix: str = "") -> list[str]:
        """List models."""
        # Not `list`: what it makes of each model takes 4 KiB, of every elder's several times a
        # job; and the bytes of the answer, read whole, grow with the elders as well.
        with ollama_errors(), self._client._client.stream("GET", "/api/tags") as answer:
            if answer.is_error:
                raise ollama.ResponseError(
                    answer.read().decode(errors="replace"), answer.status_code
                )
            names = ijson.items(ijson.from_iter(answer.iter_bytes()), "models.item.model")
            return [name for name in names if name.startswith(prefix)]

    def check(self) -> None:
        """Ask for the models that are loaded: few, however many there are."""
        with ollama_errors():
            self._client.ps()


@contextmanager
def ollama_errors() -> Iterator[None]:
    """Turn the client's errors into ours: unknown model, refused, or not available."""
    try:
        yield
    except ollama.ResponseError as error:
        if error.status_code == 404 or _UNKNOWN_BASE in error.error:
            raise ModelNotReady("Ollama has no such model; train it first") from error
        if error.status_code in _STRANGER:
            raise OllamaUnavailable(
                f"Ollama, or a proxy before it, refuses this client ({error.status_code}); check "
                "OLLAMA_HOST and what it lets in"
            ) from error
        if 400 <= error.status_code < 500 and error.status_code not in _BUSY:
            raise OllamaRefused(f"Ollama refused the call ({error.status_code})") from error
        raise OllamaUnavailable(f"Ollama answered with status {error.status_code}") from error
    except (httpx.HTTPError, ConnectionError) as error:
        raise OllamaUnavailable(
            f"Ollama cannot be reached ({type(error).__name__}); check OLLAMA_HOST"
        ) from error
    except (json.JSONDecodeError, ijson.JSONError) as error:
        raise OllamaUnavailable(
            "what answers in Ollama's place speaks no JSON; check OLLAMA_HOST and any proxy"
        ) from error


def to_completion(response: ollama.ChatResponse) -> Completion:
    """Read a chat response."""
    return Completion(
        text=response.message.content or "",
        prompt_tokens=response.prompt_eval_count or 0,
        completion_tokens=response.eval_count or 0,
    )


def full_tag(name: str) -> str:
    """Write a model's name with its tag, as Ollama lists it."""
    return name if ":" in name else f"{name}:latest"
