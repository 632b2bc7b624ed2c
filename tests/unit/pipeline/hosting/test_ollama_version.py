"""The forms a version serves, and how a host without a version number is probed."""

import json

import httpx
import pytest

from config.settings import OllamaSettings
from pipeline.hosting.ollama import OllamaHost
from pipeline.hosting.ollama_version import forms_of
from schemas.errors import OllamaUnavailable

SENTENCE = "LoRA adapters are no longer supported"


@pytest.mark.parametrize(
    ("version", "first"),
    [
        ("0.24.0", "adapter"),
        ("0.32.15", "adapter"),
        ("0.34.0", "adapter"),
        ("0.34.1", "merged"),
        ("0.34.4", "merged"),
        ("v0.34.4", "merged"),
        ("0.35.0-rc1", "merged"),
        ("0.32.15+embedded", "adapter"),
        ("1.0.0", "merged"),
        ("0.34.4+llama-server", "shared"),
    ],
)
def test_version_tells_the_form(version: str, first: str) -> None:
    forms = forms_of(version)
    assert forms is not None and forms[0] == first


@pytest.mark.parametrize("version", ["", "dev", "main-3f2a", "nightly 7", "0.0.0"])
def test_version_that_is_no_number_tells_nothing(version: str) -> None:
    assert forms_of(version) is None


def host_of(version: str, status: int, sentence: str) -> OllamaHost:
    """An Ollama that says its version, and one sentence to whoever makes a model."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/version":
            return httpx.Response(200, json={"version": version})
        assert json.loads(request.content)["model"] == "", "nothing must come of the question"
        return httpx.Response(status, json={"error": sentence})

    host = OllamaHost(OllamaSettings())
    host.close()
    host._client._client = httpx.Client(
        transport=httpx.MockTransport(answer), base_url="http://127.0.0.1:11434"
    )
    return host


@pytest.mark.parametrize(
    ("sentence", "forms"),
    [
        (SENTENCE, ("merged", "plain")),
        ("invalid model name", ("adapter", "merged", "plain")),
    ],
)
def test_host_without_a_number_is_asked_whether_it_takes_adapters(
    sentence: str, forms: tuple[str, ...]
) -> None:
    host = host_of("a build of my own", 400, sentence)
    description = host.describe()
    host.close()
    assert (description.version, description.forms) == ("a build of my own", forms)


def test_host_that_is_known_by_its_number_is_not_asked_further() -> None:
    host = host_of("0.34.4", 500, "nobody asks")
    assert host.describe().forms == ("merged", "plain")
    assert host.refusal_of("merged") is None
    host.close()


def test_refusal_is_the_hosts_own_sentence() -> None:
    host = host_of("0.34.4", 400, SENTENCE)
    assert host.refusal_of("adapter") == SENTENCE
    host.close()


@pytest.mark.parametrize(
    ("status", "body"),
    [(502, {"error": "no upstream"}), (401, {"error": "who are you"}), (200, {}), (200, [])],
)
def test_host_that_tells_no_version_is_waited_for(status: int, body: object) -> None:
    host = OllamaHost(OllamaSettings())
    host.close()
    transport = httpx.MockTransport(lambda request: httpx.Response(status, json=body))
    host._client._client = httpx.Client(transport=transport, base_url="http://127.0.0.1:11434")
    with pytest.raises(OllamaUnavailable):
        host.describe()
    host.close()
