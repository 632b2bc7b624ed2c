"""Each host: the fake, the embedded ones, and the real one where it is named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from config.settings import OllamaSettings
from embedded.stack import OllamaServer
from pipeline.hosting.ollama import OllamaHost
from tests.contract.pipeline.hosting.versions import EMBEDDED
from tests.fakes.hosting import FakeModelHost

if TYPE_CHECKING:
    pass
from tests.contract.pipeline.hosting.hosts_under_test import FAKES, HostUnderTest


@pytest.fixture(scope="module", params=[*FAKES, *EMBEDDED, "real"])
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
