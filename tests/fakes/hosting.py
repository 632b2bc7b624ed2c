"""A model host in memory."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.hosting.ollama_version import forms_of
from pipeline.hosting.port import (
    Completion,
    LoadedModel,
    Message,
    Options,
    ServedModel,
    full_tag,
)
from pipeline.hosting.server.conversation import Turn
from pipeline.hosting.server.go_template.prompt import PromptTemplate
from pipeline.hosting.server.models.creation_files import ADAPTERS_REFUSED
from pipeline.storage.files import hash_file
from schemas.errors import (
    ArtefactCorrupt,
    ModelNotReady,
    OllamaRefused,
    OllamaUnavailable,
)
from schemas.hosting import (
    Form,
    HostDescription,
    HostKind,
)


def is_silent(tag: str, question: str) -> str:
    """Return an empty answer."""
    return ""


class FakeModelHost:
    """A model host in memory with Ollama's habits.

    Names fold case, a name without tag means `:latest`, an unknown name raises ModelNotReady,
    and a copy survives the deletion of its original. `answer` gets tag and question and returns
    the text.
    """

    def __init__(
        self, answer: Callable[[str, str], str] = is_silent, version: str = "0.32.15"
    ) -> None:
        self.answer = answer
        self.version = version
        self.is_down = False
        self.asked: list[tuple[str, str]] = []
        self.options: list[Options] = []
        """The options of each `ask`."""
        self.calls: list[tuple[str, ...]] = []
        self.bases_sent = 0
        self.forms: tuple[Form, ...] = forms_of(version) or ("merged", "plain")
        self.shows_prompts = True
        """Whether `render` returns the prompt; older hosts, and hosts other than Ollama, cannot."""
        self._models: dict[str, tuple[str, ServedModel | Path]] = {}
        self._in_memory: dict[str, int] = {}

    def ensure_base(self, name: str, gguf: Path) -> None:
        """Register a base; counts only the first upload."""
        self._enter("ensure_base", name)
        if _key(name) not in self._models:
            self.bases_sent += 1
            self._models[_key(name)] = (full_tag(name), gguf)

    def describe(self) -> HostDescription:
        """Describe a host of the version and the forms that the test chose."""
        self._enter("describe")
        kind: HostKind = "llama-server" if "shared" in self.forms else "ollama"
        return HostDescription(kind=kind, version=self.version, forms=self.forms)

    def refusal_of(self, form: Form) -> str | None:
        """Refuse each form that is not in `forms`."""
        self._enter("refusal_of", form)
        return None if form in self.forms else ADAPTERS_REFUSED

    def has(self, tag: str) -> bool:
        """Say whether a model of this name exists."""
        self._enter("has", tag)
        return _key(tag) in self._models

    def create(self, tag: str, definition: ServedModel) -> None:
        """Create or replace a model. A bad file is refused first, as it is uploaded first."""
        self._enter("create", tag)
        wanted = definition.sha256
        if definition.file is not None and not definition.file.is_file():
            raise ArtefactCorrupt
        if definition.file is not None and wanted not in (None, hash_file(definition.file)):
            raise ArtefactCorrupt
        if definition.form not in self.forms:
            raise OllamaRefused("Ollama refused the call (400): " + ADAPTERS_REFUSED)
        if definition.base is not None:
            self._found(definition.base)
        self._models[_key(tag)] = (full_tag(tag), definition)

    def ask(self, tag: str, messages: Sequence[Message], options: Options) -> Completion:
        """Return the answer that the test chose."""
        self._enter("ask", tag)
        self._found(tag)
        self.options.append(options)
        self._in_memory[full_tag(tag)] = len(self.calls)
        question = messages[-1]["content"]
        self.asked.append((tag, question))
        text = self.answer(tag, question)
        prompt = self._rendered(tag, messages)
        return Completion(text=text, prompt_tokens=len(prompt), completion_tokens=len(text))

    def render(self, tag: str, messages: Sequence[Message], options: Options) -> str | None:
        """Render by the model's own template, or return None if `shows_prompts` is off."""
        self._enter("render", tag)
        self._found(tag)
        return self._rendered(tag, messages) if self.shows_prompts else None

    def complete(self, tag: str, prompt: str, options: Options) -> Completion:
        """Return the answer that the test chose; a token is a character, as in `ask`."""
        self._enter("complete", tag)
        self._found(tag)
        text = self.answer(tag, prompt)
        return Completion(text=text, prompt_tokens=len(prompt), completion_tokens=len(text))

    def _rendered(self, tag: str, messages: Sequence[Message]) -> str:
        definition = self.definition(tag)
        turns = [Turn(role=m["role"], content=m["content"]) for m in messages]
        if isinstance(definition, Path):
            return PromptTemplate("{{ .Prompt }}").render(turns)
        if definition.system and messages[0]["role"] != "system":
            turns.insert(0, Turn(role="system", content=definition.system))
        return PromptTemplate(definition.template).render(turns)

    def copy(self, source: str, target: str) -> None:
        """Give a model a second name."""
        self._enter("copy", source, target)
        _, what = self._found(source)
        self._models[_key(target)] = (full_tag(target), what)

    def delete(self, tag: str) -> bool:
        """Remove a name."""
        self._enter("delete", tag)
        self._in_memory.pop(full_tag(tag), None)
        return self._models.pop(_key(tag), None) is not None

    def tags(self, prefix: str = "") -> list[str]:
        """List the names that begin with a prefix."""
        self._enter("tags")
        return [name for name, _ in self._models.values() if name.startswith(prefix)]

    def loaded(self) -> tuple[LoadedModel, ...]:
        """List the models that were asked or loaded, and not unloaded since."""
        self._enter("loaded")
        return tuple(LoadedModel(name=n, unloads_at=str(at)) for n, at in self._in_memory.items())

    def load(self, tag: str, num_ctx: int) -> None:
        """Load a model into memory."""
        self._enter("load", tag)
        self._found(tag)
        self._in_memory[full_tag(tag)] = len(self.calls)

    def unload(self, tag: str) -> None:
        """Unload a model from memory."""
        self._enter("unload", tag)
        self._found(tag)
        self._in_memory.pop(full_tag(tag), None)

    def check(self) -> None:
        """Succeed, unless the host is down."""
        self._enter("check")

    def definition(self, tag: str) -> ServedModel | Path:
        """Return what a model is made of: its definition, or the file of a base."""
        return self._found(tag)[1]

    def _found(self, tag: str) -> tuple[str, ServedModel | Path]:
        found = self._models.get(_key(tag))
        if found is None:
            raise ModelNotReady
        return found

    def _enter(self, *call: str) -> None:
        if self.is_down:
            raise OllamaUnavailable
        self.calls.append(call)


def _key(name: str) -> str:
    return full_tag(name).lower()
