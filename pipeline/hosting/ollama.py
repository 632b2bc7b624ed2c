"""The port over Ollama's API: for Ollama itself, the embedded server and the host role.

Files are uploaded as content-addressed blobs, so each is sent only once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import ijson
import ollama

from config.settings import OllamaSettings
from pipeline.hosting.base_file import BaseFile
from pipeline.hosting.ollama_errors import ollama_errors, redacted_message
from pipeline.hosting.ollama_version import WITH_ADAPTERS, WITHOUT_ADAPTERS, forms_of, kind_of
from pipeline.hosting.port import (
    Completion,
    LoadedModel,
    Message,
    Options,
    ServedModel,
    full_tag,
)
from schemas.errors import (
    ArtefactCorrupt,
    ModelNotReady,
    OllamaFailed,
    OllamaRefused,
    OllamaUnavailable,
)
from schemas.hosting import Form, HostDescription

# With one of these capabilities in `/api/show`, Ollama prefers the file's own chat template.
_OF_A_CHAT_TEMPLATE = frozenset({"tools", "thinking"})


class OllamaHost:
    """A ModelHost over Ollama's API."""

    def __init__(self, settings: OllamaSettings) -> None:
        self._client = ollama.Client(host=settings.host, timeout=settings.timeout_s)
        self._keep_alive = settings.keep_alive

    def close(self) -> None:
        """Close all connections."""
        self._client.close()  # type: ignore[no-untyped-call]  # the client has no py.typed

    def ensure_base(self, name: str, gguf: Path) -> None:
        """Register a base model unless it is there, without its own chat template.

        Ollama may prefer that template to ours; a base that was registered with one is
        registered again.
        """
        with ollama_errors():
            if self._has_base(full_tag(name)):
                return
            base = BaseFile(gguf)
            digest = f"sha256:{base.sha256()}"
            self._request(
                "POST",
                f"/api/blobs/{digest}",
                content=base.blocks(),
                headers={"Content-Length": str(base.size_bytes)},
            )
            self._client.create(model=name, files={gguf.name: digest}, stream=False)

    def _has_base(self, tag: str) -> bool:
        try:
            with ollama_errors():
                capabilities = self._client.show(tag).capabilities or ()
        except ModelNotReady:
            return False
        return _OF_A_CHAT_TEMPLATE.isdisjoint(capabilities)

    def describe(self) -> HostDescription:
        """Derive the forms from the version; ask a host whose version has no number."""
        version = self._version()
        forms = forms_of(version)
        if forms is None:
            takes_adapters = self.refusal_of("adapter") is None
            forms = WITH_ADAPTERS if takes_adapters else WITHOUT_ADAPTERS
        return HostDescription(kind=kind_of(version), version=version, forms=forms)

    def _version(self) -> str:
        with ollama_errors():
            answer = self._request("GET", "/api/version").json()
        version = answer.get("version") if isinstance(answer, dict) else None
        if not isinstance(version, str):
            raise OllamaUnavailable(
                "what answers in Ollama's place tells no version; check OLLAMA_HOST and any proxy"
            )
        return version

    def refusal_of(self, form: Form) -> str | None:
        """Try the form with a create request that has no effect, as its model name is empty."""
        if form in ("merged", "plain") or form in (forms_of(self._version()) or ()):
            return None
        body = {"model": "", "from": "none", "adapters": {"a": "none"}, "stream": False}
        message = ""
        try:
            with ollama_errors():
                self._request("POST", "/api/create", json=body)
        except (OllamaRefused, OllamaFailed, ModelNotReady) as error:
            cause = error.__cause__
            message = redacted_message(cause, ()) if isinstance(cause, ollama.ResponseError) else ""
        if "adapter" in message.lower():
            return message
        return None if form == "adapter" else "only llama-server shares a base"

    def create(self, tag: str, definition: ServedModel) -> None:
        """Create or replace a model."""
        with ollama_errors([definition.system]):
            files = (
                None
                if definition.file is None
                else {definition.file.name: self._upload(definition)}
            )
            is_whole = definition.form == "merged"
            self._client.create(
                model=tag,
                from_=definition.base,
                files=files if is_whole else None,
                adapters=None if is_whole else files,
                system=definition.system,
                template=definition.template,
                # Some versions default to 1.1, which would penalise an elder's own repetitions.
                parameters={"stop": list(definition.stop), "temperature": 0, "repeat_penalty": 1.0},
                stream=False,
            )

    def _upload(self, definition: ServedModel) -> str:
        assert definition.file is not None
        try:
            digest = self._client.create_blob(definition.file)
        except FileNotFoundError as error:
            # A later attempt at the job removed the file: this attempt has lost its lease.
            raise ArtefactCorrupt(f"{definition.file.name} is gone; train again") from error
        # The digest is of the bytes that were sent, so it detects a change since the check.
        if definition.sha256 not in (None, digest.removeprefix("sha256:")):
            raise ArtefactCorrupt(f"{definition.file.name} was changed; train again")
        return digest

    def ask(self, tag: str, messages: Sequence[Message], options: Options) -> Completion:
        """Send a chat request without streaming."""
        with ollama_errors(message["content"] for message in messages):
            response = self._client.chat(
                model=tag, messages=messages, options=options, keep_alive=self._keep_alive
            )
        return to_completion(response)

    def render(self, tag: str, messages: Sequence[Message], options: Options) -> str | None:
        """Request the rendered prompt; versions that ignore the option answer instead: None."""
        body = {
            "model": tag,
            "messages": list(messages),
            "options": {**options, "num_predict": 1},
            "stream": False,
            "keep_alive": self._keep_alive,
            "_debug_render_only": True,
        }
        with ollama_errors(message["content"] for message in messages):
            answer = self._request("POST", "/api/chat", json=body).json()
        rendered = (answer.get("_debug_info") or {}).get("rendered_template")
        return None if rendered is None else str(rendered)

    def complete(self, tag: str, prompt: str, options: Options) -> Completion:
        """Send a raw prompt, which no template changes."""
        with ollama_errors([prompt]):
            response = self._client.generate(
                tag, prompt, raw=True, options=options, keep_alive=self._keep_alive
            )
        return Completion(
            text=response.response or "",
            prompt_tokens=response.prompt_eval_count or 0,
            completion_tokens=response.eval_count or 0,
        )

    def _request(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a request that the client library has no method for."""
        answer: httpx.Response = self._client._client.request(method, path, **request)
        if answer.is_error:
            raise ollama.ResponseError(answer.text, answer.status_code)
        return answer

    def has(self, tag: str) -> bool:
        """Request the description of one model."""
        try:
            with ollama_errors():
                self._client.show(tag)
        except ModelNotReady:
            return False
        return True

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
        # Not the client's `list`, which builds an object of 4 KiB per model. The answer is parsed
        # as it arrives, so that memory does not grow with the number of elders.
        with ollama_errors(), self._client._client.stream("GET", "/api/tags") as answer:
            if answer.is_error:
                raise ollama.ResponseError(
                    answer.read().decode(errors="replace"), answer.status_code
                )
            names = ijson.items(ijson.from_iter(answer.iter_bytes()), "models.item.model")
            return [name for name in names if name.startswith(prefix)]

    def loaded(self) -> tuple[LoadedModel, ...]:
        """List the loaded models: few, however many exist."""
        with ollama_errors():
            models = self._client.ps().models
        return tuple(
            LoadedModel(name=m.model, unloads_at=str(m.expires_at)) for m in models if m.model
        )

    def load(self, tag: str, num_ctx: int) -> None:
        """Send a chat request without messages, which loads the model."""
        with ollama_errors():
            self._client.chat(model=tag, options={"num_ctx": num_ctx}, keep_alive=self._keep_alive)

    def unload(self, tag: str) -> None:
        """Send a chat request without messages and with a keep-alive of 0."""
        with ollama_errors():
            self._client.chat(model=tag, keep_alive=0)

    def check(self) -> None:
        """List the loaded models: the cheapest request that proves the host answers."""
        self.loaded()


def to_completion(response: ollama.ChatResponse) -> Completion:
    """Convert a chat response of Ollama's client."""
    return Completion(
        text=response.message.content or "",
        prompt_tokens=response.prompt_eval_count or 0,
        completion_tokens=response.eval_count or 0,
    )
