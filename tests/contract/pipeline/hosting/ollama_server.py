"""An Ollama server that the contract is run on, and what the fixtures make on it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import httpx
import numpy as np
import ollama

from pipeline.hosting.ollama_version import forms_of
from tests.waiting import wait_for

CHATML = (
    "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
)


# Short, repeatable answers: the suite is about the protocol, not about the model's wit.
PARAMETERS = {
    "temperature": 0.0,
    "seed": 1,
    "num_predict": 12,
    "num_ctx": 512,
    "stop": ["<|im_end|>"],
}


QUESTION = [{"role": "user", "content": "Who taught you to swim?"}]


# A real Ollama brings its runner up anew for each persona, on a busy machine.
CALL_LIMIT_S = 120


@dataclass
class OllamaUnderTest:
    """A server, and the names of what this run makes on it."""

    host: str
    is_embedded: bool
    template: str = CHATML
    question: tuple[dict[str, str], ...] = tuple(QUESTION)
    run: str = field(default_factory=lambda: f"contract-{uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        self.client = ollama.Client(self.host, timeout=CALL_LIMIT_S)
        self.version = str(httpx.get(f"{self.host}/api/version").json()["version"])
        self.forms = forms_of(self.version) or ()

    @property
    def takes_adapters(self) -> bool:
        """Whether this host makes models with an adapter."""
        return self.is_old or self.is_shared

    @property
    def is_old(self) -> bool:
        """Whether this is an Ollama before 0.34.1, with all its other habits."""
        return "adapter" in self.forms

    @property
    def is_shared(self) -> bool:
        """Whether a base serves many personas at once, and stays: our own host role."""
        return "shared" in self.forms

    @property
    def loaded(self) -> list[str]:
        """The models of this run that are in memory."""
        names = [entry.model or "" for entry in self.client.ps().models]
        return [name.removesuffix(":latest") for name in names if name.startswith(self.run)]

    def unload(self, model: str) -> None:
        """Take a model, and all that share its file, out of memory, where the host does so."""
        self.client.generate(model, "", keep_alive=0)
        if not self.is_shared:
            wait_for(lambda: model not in self.loaded)

    def name(self, suffix: str) -> str:
        """Return a model name of this run; the model is removed at the end."""
        return f"{self.run}-{suffix}"

    def ask(self, model: str, **options: object) -> str:
        """Return the whole answer to the one question, drawn greedily."""
        answer = self.client.chat(model, QUESTION, options=options or None)
        return answer.message.content or ""

    def close(self) -> None:
        """Remove what this run made, and hang up."""
        for model in self.client.list().models:
            if model.model is not None and model.model.startswith(self.run):
                self.client.delete(model.model)
        # The client has no py.typed; ours is strict.
        self.client.close()  # type: ignore[no-untyped-call]


MergedGguf = Callable[[int], Path]


MakePersona = Callable[[str, int], str]


RefusalOf = Callable[[Callable[[], object]], ollama.ResponseError]


class WriteAdapter(Protocol):
    """Writes an adapter to a path, the same for the same seed."""

    def __call__(
        self, path: Path, seed: int, *, dtype: type[np.floating] = ..., width: int = ...
    ) -> None: ...
