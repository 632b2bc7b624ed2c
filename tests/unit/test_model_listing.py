"""What the list of all elders' models costs while it is read."""

import json
import tracemalloc

import httpx
import pytest

from config.settings import OllamaSettings
from pipeline.model_host import OllamaHost

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


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> bytes:
    names = [f"afs_elder_{number}:v1" for number in range(MODELS)]
    body = json.dumps({"models": [{"name": n, "model": n, **ENTRY} for n in names]}).encode()

    def answer(self: httpx.Client, method: str, url: str, **_: object) -> httpx.Response:
        assert (method, url) == ("GET", "/api/tags")
        return httpx.Response(200, content=body, request=httpx.Request(method, "http://ollama"))

    monkeypatch.setattr(httpx.Client, "request", answer)
    return body


def test_names_alone_are_kept_of_a_long_list(listing: bytes) -> None:
    """Read whole it takes ten times its size, for good: the heap does not shrink again."""
    host = OllamaHost(OllamaSettings(host="http://127.0.0.1:1"))
    host.tags()
    tracemalloc.start()
    tags = host.tags()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert tags == [f"afs_elder_{number}:v1" for number in range(MODELS)]
    assert peak < 2 * len(listing)
