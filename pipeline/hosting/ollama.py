"""Ollama behind the port: the real one, the embedded one, and our own host role.

A base is registered once from its GGUF file. Files travel as content-addressed blobs, so each is
sent once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import ijson
import ollama

from config.settings import OllamaSettings
from pipeline.hosting.base_file import BaseFile
from pipeline.hosting.ollama_errors import ollama_errors, sentence_of
from pipeline.hosting.ollama_versions import WITH_ADAPTERS, WITHOUT_ADAPTERS, forms_of, kind_of
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

# What makes Ollama prefer a file's own chat template to ours, as `/api/show` says it.
_OF_A_CHAT_TEMPLATE = frozenset({"tools", "thinking"})


class OllamaHost:
    """Ollama, real or embedded."""

    def __init__(self, settings: OllamaSettings) -> None:
        self._client = ollama.Client(host=settings.host, timeout=settings.timeout_s)
        self._keep_alive = settings.keep_alive

    def close(self) -> None:
        """Close all connections."""
        self._client.close()  # type: ignore[no-untyped-call]  # the client has no py.typed

    def ensure_base(self, name: str, gguf: Path) -> None:
        """Register a base model under `name` unless it is there; sends the file at most once.

        It is sent without its chat template, which Ollama may prefer to ours; a base that was
        registered with one is registered anew.
        """
        with ollama_errors():
            if self._has_base(full_tag(name)):
                return
            base = BaseFile(gguf)
            digest = f"sha256:{base.sha256()}"
            self._ask(
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
        """Ask for the version, and say what an Ollama of that version can make."""
        version = self._version()
        forms = forms_of(version)
        if forms is None:
            takes_adapters = self.refusal_of("adapter") is None
            forms = WITH_ADAPTERS if takes_adapters else WITHOUT_ADAPTERS
        return HostDescription(kind=kind_of(version), version=version, forms=forms)

    def _version(self) -> str:
        with ollama_errors():
            answer = self._ask("GET", "/api/version").json()
        version = answer.get("version") if isinstance(answer, dict) else None
        if not isinstance(version, str):
            raise OllamaUnavailable(
                "what answers in Ollama's place tells no version; check OLLAMA_HOST and any proxy"
            )
        return version

    def refusal_of(self, form: Form) -> str | None:
        """Ask for the form by a request that comes to nothing: its model has no name."""
        if form in ("merged", "plain") or form in (forms_of(self._version()) or ()):
            return None
        body = {"model": "", "from": "none", "adapters": {"a": "none"}, "stream": False}
        sentence = ""
        try:
            with ollama_errors():
                self._ask("POST", "/api/create", json=body)
        except (OllamaRefused, OllamaFailed, ModelNotReady) as error:
            cause = error.__cause__
            sentence = sentence_of(cause, ()) if isinstance(cause, ollama.ResponseError) else ""
        if "adapter" in sentence.lower():
            return sentence
        return None if form == "adapter" else "only llama-server shares a base"

    def create(self, tag: str, model: ServedModel) -> None:
        """Create or replace a model in its form."""
        with ollama_errors([model.system]):
            files = None if model.file is None else {model.file.name: self._send(model)}
            is_whole = model.form == "merged"
            self._client.create(
                model=tag,
                from_=model.base,
                files=files if is_whole else None,
                adapters=None if is_whole else files,
                system=model.system,
                template=model.template,
                # 1.1 in some versions of Ollama: it would punish an elder's own repetitions.
                parameters={"stop": list(model.stop), "temperature": 0, "repeat_penalty": 1.0},
                stream=False,
            )

    def _send(self, model: ServedModel) -> str:
        assert model.file is not None
        try:
            digest = self._client.create_blob(model.file)
        except FileNotFoundError as error:
            # A later attempt at the job removed it: this one's lease is over.
            raise ArtefactCorrupt(f"{model.file.name} is gone; train again") from error
        # Of the bytes that were sent: a file can change after it was checked.
        if model.sha256 not in (None, digest.removeprefix("sha256:")):
            raise ArtefactCorrupt(f"{model.file.name} was changed; train again")
        return digest

    def ask(self, tag: str, messages: Sequence[Message], options: Options) -> Completion:
        """Ask a model and wait for the whole answer."""
        with ollama_errors(message["content"] for message in messages):
            response = self._client.chat(
                model=tag, messages=messages, options=options, keep_alive=self._keep_alive
            )
        return to_completion(response)

    def render(self, tag: str, messages: Sequence[Message], options: Options) -> str | None:
        """Ask for the rendered prompt; None from a version that answers the question instead."""
        body = {
            "model": tag,
            "messages": list(messages),
            "options": {**options, "num_predict": 1},
            "stream": False,
            "keep_alive": self._keep_alive,
            "_debug_render_only": True,
        }
        with ollama_errors(message["content"] for message in messages):
            answer = self._ask("POST", "/api/chat", json=body).json()
        rendered = (answer.get("_debug_info") or {}).get("rendered_template")
        return None if rendered is None else str(rendered)

    def complete(self, tag: str, prompt: str, options: Options) -> Completion:
        """Send a prompt that no template touches any more."""
        with ollama_errors([prompt]):
            response = self._client.generate(
                tag, prompt, raw=True, options=options, keep_alive=self._keep_alive
            )
        return Completion(
            text=response.response or "",
            prompt_tokens=response.prompt_eval_count or 0,
            completion_tokens=response.eval_count or 0,
        )

    def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a request that the client has no method for."""
        answer: httpx.Response = self._client._client.request(method, path, **request)
        if answer.is_error:
            raise ollama.ResponseError(answer.text, answer.status_code)
        return answer

    def has(self, tag: str) -> bool:
        """Ask for one model."""
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
        # Not `list`: its object of each model takes 4 KiB, and there is a model for every elder.
        # The answer is read as it comes, since its size grows with the elders as well.
        with ollama_errors(), self._client._client.stream("GET", "/api/tags") as answer:
            if answer.is_error:
                raise ollama.ResponseError(
                    answer.read().decode(errors="replace"), answer.status_code
                )
            names = ijson.items(ijson.from_iter(answer.iter_bytes()), "models.item.model")
            return [name for name in names if name.startswith(prefix)]

    def loaded(self) -> tuple[LoadedModel, ...]:
        """Ask for the models that are loaded: few, however many there are."""
        with ollama_errors():
            models = self._client.ps().models
        return tuple(
            LoadedModel(name=m.model, unloads_at=str(m.expires_at)) for m in models if m.model
        )

    def load(self, tag: str, num_ctx: int) -> None:
        """Load a model by a chat without messages."""
        with ollama_errors():
            self._client.chat(model=tag, options={"num_ctx": num_ctx}, keep_alive=self._keep_alive)

    def unload(self, tag: str) -> None:
        """Unload a model by a chat without messages that keeps it alive for no time."""
        with ollama_errors():
            self._client.chat(model=tag, keep_alive=0)

    def check(self) -> None:
        """Ask for the models that are loaded."""
        self.loaded()


def to_completion(response: ollama.ChatResponse) -> Completion:
    """Read a chat response."""
    return Completion(
        text=response.message.content or "",
        prompt_tokens=response.prompt_eval_count or 0,
        completion_tokens=response.eval_count or 0,
    )
