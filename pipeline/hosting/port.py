"""The port to whatever serves the models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.text.markers import PlainText
from schemas.base import Frozen
from schemas.hosting import Form, HostDescription
from schemas.identifiers import Sha256

Message = Mapping[str, str]
Options = Mapping[str, float | int | list[str]]


class Completion(Frozen):
    """What a model said, and the tokens it read and wrote."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class LoadedModel(Frozen):
    """A model in memory; `unloads_at`, as the host writes it, changes whenever it is asked."""

    name: str
    unloads_at: str


class ServedModel(Frozen):
    """What a host is given to serve.

    `file` is the adapter (forms `adapter` and `shared`) or the merged model (`merged`), as GGUF;
    the form `plain` has none. `base` is the name under which the host has the base model; a
    merged model needs none. Markers in `system` become text, as training renders them.
    """

    form: Form
    base: str | None = None
    file: Path | None = None
    sha256: Sha256 | None = None
    """Of `file`, where it is known."""
    system: PlainText
    template: str
    stop: tuple[str, ...]


class ModelHost(Protocol):
    """Serves models by tag. Every method raises OllamaUnavailable when the host is down."""

    def describe(self) -> HostDescription:
        """Ask the host what it is and which forms it can make."""

    def refusal_of(self, form: Form) -> str | None:
        """Ask whether the host would refuse a form; return its own sentence, or None."""

    def ensure_base(self, name: str, gguf: Path) -> None:
        """Register a base model under `name` unless it is there."""

    def create(self, tag: str, model: ServedModel) -> None:
        """Create or replace a model; raises ModelNotReady for an unknown base.

        Raises ArtefactCorrupt, and changes nothing, where the file that was read has another
        hash than `model` says, or is gone; OllamaRefused, with the host's own sentence, where the
        host does not make this form.
        """

    def ask(self, tag: str, messages: Sequence[Message], options: Options) -> Completion:
        """Ask a model; raises ModelNotReady for an unknown tag."""

    def render(self, tag: str, messages: Sequence[Message], options: Options) -> str | None:
        """Return the prompt that `ask` would send to the model, as text; None where it cannot say.

        Raises ModelNotReady for an unknown tag.
        """

    def complete(self, tag: str, prompt: str, options: Options) -> Completion:
        """Go on from a prompt that is rendered already; raises ModelNotReady for an unknown tag."""

    def has(self, tag: str) -> bool:
        """Say whether there is a model of this name."""

    def copy(self, source: str, target: str) -> None:
        """Give a model a second name, replacing what had it; raises ModelNotReady."""

    def delete(self, tag: str) -> bool:
        """Remove a model and say whether it was there."""

    def tags(self, prefix: str = "") -> list[str]:
        """List the names of all models, or of those whose name begins with `prefix`.

        The host sends all of them whatever is asked for; for one name, `has` is the cheaper way.
        """

    def loaded(self) -> tuple[LoadedModel, ...]:
        """List the models that are in memory."""

    def load(self, tag: str, num_ctx: int) -> None:
        """Bring a model into memory, as a question would; raises ModelNotReady."""

    def unload(self, tag: str) -> None:
        """Let a model leave memory; raises ModelNotReady."""

    def check(self) -> None:
        """Do nothing but ask whether the host is there."""


def full_tag(name: str) -> str:
    """Write a model's name with its tag, as hosts list it."""
    return name if ":" in name else f"{name}:latest"
