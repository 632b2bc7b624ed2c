"""What the contracts of model hosts are run on: the embedded server, fakes, and a real host.

The embedded server runs as two versions of Ollama and as our own host role. Where hosts differ, the
tests assert by the version that a host reports.

Set OLLAMA_HOST to run the suites on a real host as well (and OLLAMA_MAX_LOADED_MODELS if it was
started with another value than its default). Models get names of this run only and are deleted at
the end, so a server in use is left as it was.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import ollama
import pytest

from config.settings import OllamaSettings
from embedded.bases import install_base
from embedded.stack import OllamaServer
from pipeline.hosting.ollama import OllamaHost
from tests.contract.pipeline.hosting.embedded_profiles import EMBEDDED
from tests.contract.pipeline.hosting.model_host import FAKES, HostUnderTest
from tests.contract.pipeline.hosting.ollama_server import (
    CHATML,
    PARAMETERS,
    MakePersona,
    MergedGguf,
    OllamaUnderTest,
    RefusalOf,
    WriteAdapter,
)
from tests.fakes.hosting import FakeModelHost
from tests.models.random_weights import write_merged, write_random_adapter


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


@pytest.fixture(scope="session")
def refusal_of() -> RefusalOf:
    """Calls, and returns the error with which the server refuses."""

    def call_and_catch(call: Callable[[], object]) -> ollama.ResponseError:
        with pytest.raises(ollama.ResponseError) as caught:
            call()
        return caught.value

    return call_and_catch


@pytest.fixture(scope="session")
def write_adapter() -> WriteAdapter:
    """For tests that want an adapter of their own."""
    return write_random_adapter


@pytest.fixture(scope="session", params=[*FAKES, *EMBEDDED, "real"])
def under_test(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, base_gguf: Path
) -> Iterator[HostUnderTest]:
    """The fake and the embedded server as each kind of host, and the real one of OLLAMA_HOST."""
    run = f"port-{uuid4().hex[:8]}"
    if request.param in FAKES:
        fake = FakeModelHost(lambda tag, question: f"{tag} heard {question}", FAKES[request.param])
        yield HostUnderTest(fake, run, base_gguf)
        return
    with ExitStack() as stack:
        if request.param in EMBEDDED:
            embedded = OllamaServer(tmp_path_factory.mktemp("host"), EMBEDDED[request.param])
            stack.enter_context(embedded.process)
            address = embedded.host
        else:
            address = os.environ.get("OLLAMA_HOST", "")
            if not address:
                pytest.skip("OLLAMA_HOST names no real host to run the contract on")
        host = OllamaHost(OllamaSettings(host=address))
        yield HostUnderTest(host, run, base_gguf)
        for tag in host.tags(run):
            host.delete(tag)
        host.close()


@pytest.fixture(scope="session")
def persona_file(
    under_test: HostUnderTest,
    write_adapter: WriteAdapter,
    merged_gguf: MergedGguf,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What the preferred form is made from: an adapter, or a merged model."""
    if under_test.forms[0] == "merged":
        return merged_gguf(1)
    adapter = tmp_path_factory.mktemp("adapter") / "adapter.gguf"
    write_adapter(adapter, 7)
    return adapter
