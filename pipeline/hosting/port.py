"""The port to the hosts that serve the models."""

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
    """A model's answer, and the number of tokens in prompt and answer."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class LoadedModel(Frozen):
    """A model in memory. `unloads_at`, in the host's own format, changes with each request."""

    name: str
    unloads_at: str


class ServedModel(Frozen):
    """The definition of a model that a host is to serve.

    `file` is a GGUF file: the adapter (forms `adapter` and `shared`) or the merged model
    (`merged`); the form `plain` has none. `base` is the host's name of the base model; a merged
    model has none. Chat-format markers in `system` become plain text, as in training.
    """

    form: Form
    base: str | None = None
    file: Path | None = None
    sha256: Sha256 | None = None
    """The hash of `file`, if known."""
    system: PlainText
    template: str
    stop: tuple[str, ...]


class ModelHost(Protocol):
    """Serves models by tag. Every method raises OllamaUnavailable if the host cannot be reached."""

    def describe(self) -> HostDescription:
        """Return the host's kind, version and the forms it serves, the preferred one first."""

    def refusal_of(self, form: Form) -> str | None:
        """Return the host's message if it would refuse a form; None if it accepts the form."""

    def ensure_base(self, name: str, gguf: Path) -> None:
        """Register a base model under `name` unless it is there. Uploads the file at most once."""

    def create(self, tag: str, definition: ServedModel) -> None:
        """Create or replace a model.

        Raises:
            ModelNotReady: the base is unknown.
            ArtefactCorrupt: the file is gone or its hash is not the definition's. Nothing has
                been changed.
            OllamaRefused: the host does not serve this form; has the host's own message.
        """

    def ask(self, tag: str, messages: Sequence[Message], options: Options) -> Completion:
        """Return the whole answer to a conversation; raises ModelNotReady for an unknown tag."""

    def render(self, tag: str, messages: Sequence[Message], options: Options) -> str | None:
        """Return the prompt that `ask` would give the model; None if the host cannot show it.

        Raises ModelNotReady for an unknown tag.
        """

    def complete(self, tag: str, prompt: str, options: Options) -> Completion:
        """Complete a prompt that is already rendered; raises ModelNotReady for an unknown tag."""

    def has(self, tag: str) -> bool:
        """Say whether a model of this name exists."""

    def copy(self, source: str, target: str) -> None:
        """Give a model a second name, replacing the model that had it; raises ModelNotReady."""

    def delete(self, tag: str) -> bool:
        """Delete a model; return whether it existed."""

    def tags(self, prefix: str = "") -> list[str]:
        """List the names of all models, or of those whose name begins with `prefix`.

        The host always sends all names; to look up a single one, `has` is cheaper.
        """

    def loaded(self) -> tuple[LoadedModel, ...]:
        """List the models that are in memory."""

    def load(self, tag: str, num_ctx: int) -> None:
        """Load a model into memory with a context of `num_ctx` tokens; raises ModelNotReady."""

    def unload(self, tag: str) -> None:
        """Remove a model from memory; raises ModelNotReady."""

    def check(self) -> None:
        """Return if the host answers."""


def full_tag(name: str) -> str:
    """Return a model's name with its tag, as hosts list it."""
    return name if ":" in name else f"{name}:latest"
