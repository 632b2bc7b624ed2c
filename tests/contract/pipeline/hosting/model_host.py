"""A host behind the port, with a registered base, that the contract of the port is run on."""

from pathlib import Path

from pipeline.hosting.port import ModelHost, ServedModel
from pipeline.text.chat_format import chat_format
from schemas.hosting import Form

QUESTION = [{"role": "user", "content": "Who taught you to swim?"}]


OPTIONS: dict[str, float | int | list[str]] = {"temperature": 0, "num_predict": 4, "num_ctx": 512}


class HostUnderTest:
    """A host, a registered base, and names of this run."""

    def __init__(self, host: ModelHost, run: str, gguf: Path) -> None:
        self.host = host
        self.forms = host.describe().forms
        self._run = run
        self.gguf = gguf
        self.base = self.name("base")
        host.ensure_base(self.base, gguf)

    def name(self, suffix: str) -> str:
        """A name of this run; the model is removed at the end."""
        return f"{self._run}-{suffix}"

    def definition(self, file: Path | None = None, base: str | None = None) -> ServedModel:
        """A model without a persona, or one of the preferred form, made from `file`."""
        form: Form = "plain" if file is None else self.forms[0]
        return self.definition_of(form, file, base)

    def definition_of(
        self, form: Form, file: Path | None = None, base: str | None = None
    ) -> ServedModel:
        return ServedModel(
            form=form,
            base=None if form == "merged" else base or self.base,
            file=file,
            system="You are old.",
            template=chat_format("chatml").ollama_template,
            stop=("<|im_end|>",),
        )

    def make(self, suffix: str) -> str:
        tag = f"{self.name(suffix)}:v1"
        self.host.create(tag, self.definition())
        return tag


FAKES = {"fake-0.34": "0.34.4", "fake-0.32": "0.32.15", "fake-shared": "0.34.4+llama-server"}
