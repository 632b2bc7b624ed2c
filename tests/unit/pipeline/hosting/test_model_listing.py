"""Memory that reading the list of all models takes."""

import json
import tracemalloc
from collections.abc import Iterator

import httpx
import pytest

from config.settings import OllamaSettings
from pipeline.hosting.ollama import OllamaHost
from schemas.errors import OllamaRefused, OllamaUnavailable

MODELS = 1000
ENTRY = {
    "modified_at": "2026-11-25T09:00:00.000000Z",
    "size": 123_456_789,
    "digest": "a" * 64,
    "details": {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "1M",
        "quantization_level": "F16",
    },
}


NAMES = [f"afs_elder_{number}:v1" for number in range(MODELS)]
BODY = json.dumps({"models": [{"name": n, "model": n, **ENTRY} for n in NAMES]}).encode()
HTML = b"<html>Please log in</html>"


class InParts(httpx.SyncByteStream):
    """A response body that arrives in blocks."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        for begin in range(0, len(self._body), 4096):
            yield self._body[begin : begin + 4096]


def asked(monkeypatch: pytest.MonkeyPatch, status: int, body: bytes) -> OllamaHost:
    def answer(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("GET", "/api/tags")
        return httpx.Response(status, stream=InParts(body), request=request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", answer)
    return OllamaHost(OllamaSettings(host="http://127.0.0.1:1"))


def test_a_list_of_any_length_is_read_in_the_memory_of_its_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The heap never shrinks again, so the peak matters."""
    host = asked(monkeypatch, 200, BODY)
    assert host.tags() == NAMES
    tracemalloc.start()
    tags = host.tags("afs_elder_77:")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert tags == ["afs_elder_77:v1"]
    assert peak < len(BODY) / 4


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, HTML, OllamaUnavailable),
        (200, b"", OllamaUnavailable),
        (200, BODY[:-100], OllamaUnavailable),
        (500, HTML, OllamaUnavailable),
        (400, b'{"error": "no"}', OllamaRefused),
    ],
)
def test_what_is_no_list_is_told_as_what_it_is(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        asked(monkeypatch, status, body).tags()


def test_an_ollama_without_models_has_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, 200, b'{"models": []}').tags() == []
    assert asked(monkeypatch, 200, b'{"models": null}').tags() == []
