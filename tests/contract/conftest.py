"""What the contracts are tried on: stores and Ollama servers, ours and real ones.

Ollama is the embedded server as two versions and as our own host role, and a real host if one is
named; the store is the fake and the embedded one. What differs between hosts is asserted by what
their version says.

Set OLLAMA_HOST to run the suite on a real host as well (and OLLAMA_MAX_LOADED_MODELS, if it was
started with another number than its default). Models get names of this run only and
are removed at the end, so a server in use is left as it was.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import httpx
import numpy as np
import ollama
import pytest

from config.settings import MongoSettings
from embedded.bases import install_base
from embedded.mongodb import MongoDbServer
from embedded.stack import OllamaServer
from pipeline.hosting.ollama_version import forms_of
from pipeline.storage.mongo import Store, ensure_indexes, open_client
from tests.contract.pipeline.hosting.versions import EMBEDDED
from tests.fakes.clock import FalseClock
from tests.fakes.mongo import FakeStore
from tests.models.random_weights import write_merged, write_random_adapter
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


@pytest.fixture(scope="session", params=[*EMBEDDED, "real"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OllamaUnderTest]:
    """The embedded servers, started here; then the real host of OLLAMA_HOST."""
    if request.param in EMBEDDED:
        embedded = OllamaServer(tmp_path_factory.mktemp("embedded"), EMBEDDED[request.param])
        with embedded.process:
            yield from _opened(OllamaUnderTest(embedded.host, is_embedded=True))
        return
    host = os.environ.get("OLLAMA_HOST")
    if not host:
        pytest.skip("OLLAMA_HOST names no real host to run the contract on")
    yield from _opened(OllamaUnderTest(_with_scheme(host), is_embedded=False))


def _opened(under_test: OllamaUnderTest) -> Iterator[OllamaUnderTest]:
    try:
        yield under_test
    finally:
        under_test.close()


def _with_scheme(host: str) -> str:
    return host if "://" in host else f"http://{host}"


@pytest.fixture(scope="session")
def base_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2: the smallest base, under Apache-2.0."""
    return install_base("smollm2-135m-instruct", tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="session")
def base(server: OllamaUnderTest, base_gguf: Path) -> str:
    """A model without adapter, made from the GGUF file."""
    name = server.name("base")
    digest = server.client.create_blob(base_gguf)
    server.client.create(
        name,
        files={"base.gguf": digest},
        template=CHATML,
        parameters=PARAMETERS,
        stream=False,
    )
    return name


MergedGguf = Callable[[int], Path]


@pytest.fixture(scope="session")
def merged_gguf(base_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> MergedGguf:
    """The base and the random adapter of a seed as one file, written once."""
    folder = tmp_path_factory.mktemp("merged")

    def write(seed: int) -> Path:
        path = folder / f"{seed}.gguf"
        if not path.exists():
            write_merged(path, base_gguf, seed)
        return path

    return write


MakePersona = Callable[[str, int], str]


@pytest.fixture(scope="session")
def make_persona(
    server: OllamaUnderTest,
    base: str,
    merged_gguf: MergedGguf,
    tmp_path_factory: pytest.TempPathFactory,
) -> MakePersona:
    """Makes a persona: the base with a random adapter, the same for the same seed.

    The adapter lies beside the base where that is possible, and is merged into it elsewhere.
    """
    folder = tmp_path_factory.mktemp("adapters")

    def make(suffix: str, seed: int) -> str:
        name = server.name(suffix)
        if server.takes_adapters:
            path = folder / f"{seed}.gguf"
            write_random_adapter(path, seed)
            digest = server.client.create_blob(path)
            server.client.create(name, from_=base, adapters={"a.gguf": digest}, stream=False)
            return name
        server.client.create(
            name,
            files={"merged.gguf": server.client.create_blob(merged_gguf(seed))},
            template=CHATML,
            parameters=PARAMETERS,
            stream=False,
        )
        return name

    return make


RefusalOf = Callable[[Callable[[], object]], ollama.ResponseError]


@pytest.fixture(scope="session")
def refusal_of() -> RefusalOf:
    """Calls, and returns the error with which the server refuses."""

    def call_and_catch(call: Callable[[], object]) -> ollama.ResponseError:
        with pytest.raises(ollama.ResponseError) as caught:
            call()
        return caught.value

    return call_and_catch


class WriteAdapter(Protocol):
    """Writes an adapter to a path, the same for the same seed."""

    def __call__(
        self, path: Path, seed: int, *, dtype: type[np.floating] = ..., width: int = ...
    ) -> None: ...


@pytest.fixture(scope="session")
def write_adapter() -> WriteAdapter:
    """For tests that want an adapter of their own."""
    return write_random_adapter


@pytest.fixture(scope="session")
def mongodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an embedded store."""
    server = MongoDbServer(tmp_path_factory.mktemp("mongodb"))
    with server.process:
        yield server.uri


@pytest.fixture(params=["fake", "real"])
def clock(request: pytest.FixtureRequest) -> FalseClock | None:
    """The fake store's clock, which moves a little at each look; the real one has its own."""
    return FalseClock(tick_ms=1) if request.param == "fake" else None


@pytest.fixture
def store(clock: FalseClock | None, request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty database with its indexes."""
    if clock is not None:
        fake = FakeStore(clock).as_store()
        ensure_indexes(fake, dedup_hours=1)
        yield fake
        return
    mongo = MongoSettings(
        uri=request.getfixturevalue("mongodb"), database=f"test_{uuid4().hex[:12]}"
    )
    client = open_client(mongo)
    ensure_indexes(client[mongo.database], dedup_hours=1)
    yield client[mongo.database]
    client.drop_database(mongo.database)
    client.close()
