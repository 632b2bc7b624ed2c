"""Ollama behind the port: the real one, the embedded one, and our own host role.

A base is registered once from its GGUF file. Files travel as content-addressed blobs, so each is
sent once.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import ijson
import ollama

from config.settings import OllamaSettings
from pipeline.hosting.base_file import BaseFile
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
from schemas.hosting import Form, HostDescription, HostKind

# What our own host role adds to the version whose API it speaks.
LLAMA_SERVER_SUFFIX = "+llama-server"
# What a build says whose maker gave it no number: nothing.
_NUMBERS = re.compile(r"v?(?!0\.0\.0)(\d+)\.(\d+)\.(\d+)")
_FIRST_WITHOUT = (0, 34, 1)
_WITH_ADAPTERS: tuple[Form, ...] = ("adapter", "merged", "plain")
_WITHOUT_ADAPTERS: tuple[Form, ...] = ("merged", "plain")
# An unknown base is looked for in the registry on the network, and that fails with status 500.
_UNKNOWN_BASE = "pull model manifest"
# What makes Ollama prefer a file's own chat template to ours, as `/api/show` says it.
_OF_A_CHAT_TEMPLATE = frozenset({"tools", "thinking"})
# Asked later it will do: Request Timeout, Too Many Requests, and what a proxy says of a server
# that it cannot reach, or Ollama of a full queue.
_BUSY = frozenset({408, 429, 502, 503, 504})
# Authentication failed; the request itself is fine. Retry until an operator fixes it.
_STRANGER = frozenset({401, 403, 407})
_LONGEST_SENTENCE = 300
_QUOTED = 16
_QUOTES_A_PAGE = re.compile(r"<(!doctype|html)", re.IGNORECASE)


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
            forms = _WITH_ADAPTERS if takes_adapters else _WITHOUT_ADAPTERS
        return HostDescription(kind=_kind_of(version), version=version, forms=forms)

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
            sentence = _sentence(cause, ()) if isinstance(cause, ollama.ResponseError) else ""
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
        """Send what the client has no words for."""
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
        # Not `list`: what it makes of each model takes 4 KiB, of every elder's several times a
        # job; and the bytes of the answer, read whole, grow with the elders as well.
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


@contextmanager
def ollama_errors(said: Iterable[str] = ()) -> Iterator[None]:
    """Turn the client's errors into ours: unknown model, refused, failed, or not reached.

    Ollama's own sentence is kept, unless it quotes what was `said` to a model.
    """
    try:
        yield
    except ollama.ResponseError as error:
        if error.status_code == 404 or _UNKNOWN_BASE in _text(error):
            raise ModelNotReady("Ollama has no such model; train it first") from error
        if error.status_code in _STRANGER:
            raise OllamaUnavailable(
                f"Ollama, or a proxy before it, refuses this client ({error.status_code}); check "
                "OLLAMA_HOST and what it lets in"
            ) from error
        sentence = _sentence(error, said)
        # -1 is what the client says of an error in the middle of a stream.
        status = f" ({error.status_code})" if error.status_code > 0 else ""
        if error.status_code in _BUSY:
            raise OllamaUnavailable(f"Ollama is busy or away{status}: {sentence}") from error
        if 400 <= error.status_code < 500:
            raise OllamaRefused(f"Ollama refused the call{status}: {sentence}") from error
        raise OllamaFailed(f"Ollama failed{status}: {sentence}") from error
    except (httpx.HTTPError, ConnectionError) as error:
        raise OllamaUnavailable(
            f"Ollama cannot be reached ({type(error).__name__}); check OLLAMA_HOST, or "
            "MODELSERVER_HOST__URL"
        ) from error
    except (json.JSONDecodeError, ijson.JSONError) as error:
        raise OllamaUnavailable(
            "what answers in Ollama's place speaks no JSON; check OLLAMA_HOST and any proxy"
        ) from error


def _sentence(error: ollama.ResponseError, said: Iterable[str]) -> str:
    """What Ollama said of its error, on one line: never what an elder or a family said."""
    sentence = " ".join(_text(error).split())[:_LONGEST_SENTENCE]
    if _QUOTES_A_PAGE.match(sentence):
        return "no reason, but a page"
    if any(_is_quoted(sentence, text) for text in said):
        return "a reason that quotes what was said; see its log"
    return sentence or "no reason given"


def _text(error: ollama.ResponseError) -> str:
    """What stood under `error`: a proxy may put an object or nothing there."""
    told: object = error.error
    return told if isinstance(told, str) else json.dumps(told)


def _is_quoted(sentence: str, text: str) -> bool:
    """Whether a sentence shares `_QUOTED` characters in a row with a text.

    Ollama's own sentences are plain ASCII: of others one character is enough.
    """
    if any(character in text for character in sentence if not character.isascii()):
        return True
    folded = " ".join(text.split())
    starts = range(max(1, len(sentence) - _QUOTED + 1))
    return any(sentence[i : i + _QUOTED] in folded for i in starts if sentence)


def to_completion(response: ollama.ChatResponse) -> Completion:
    """Read a chat response."""
    return Completion(
        text=response.message.content or "",
        prompt_tokens=response.prompt_eval_count or 0,
        completion_tokens=response.eval_count or 0,
    )


def forms_of(version: str) -> tuple[Form, ...] | None:
    """Say which forms an Ollama of this version makes, the preferred one first.

    Since 0.34.1 it refuses adapters; every Ollama serves merged models. What comes after a `+`
    says that it is not Ollama itself; our own host role shares one base among its adapters. None
    for a version that is no number.
    """
    if _kind_of(version) == "llama-server":
        return ("shared", "plain")
    found = _NUMBERS.match(version)
    if found is None:
        return None
    numbers = tuple(int(number) for number in found.groups())
    return _WITH_ADAPTERS if numbers < _FIRST_WITHOUT else _WITHOUT_ADAPTERS


def _kind_of(version: str) -> HostKind:
    return "llama-server" if version.endswith(LLAMA_SERVER_SUFFIX) else "ollama"
