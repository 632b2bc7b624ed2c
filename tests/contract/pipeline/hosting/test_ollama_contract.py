"""What ModelServer relies on in Ollama: models, their blobs, and what is refused.

Tried through the `ollama` client on each server; what `create` refuses, answers,
memory and personas have files of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.contract.pipeline.hosting.ollama_server import OllamaUnderTest, RefusalOf


# -- being there ------------------------------------------------------------------------------


def test_server_says_that_it_runs_and_its_version(server: OllamaUnderTest) -> None:
    """`GET /` and `/api/version`, which health checks use."""
    assert httpx.get(server.host).text == "Ollama is running"
    assert httpx.get(f"{server.host}/api/version").json()["version"][0].isdigit()


# -- models -----------------------------------------------------------------------------------


def test_created_model_is_listed_with_its_tag(server: OllamaUnderTest, base: str) -> None:
    """A model without a tag is `latest`, with digest, size and details."""
    (entry,) = [m for m in server.client.list().models if m.model == f"{base}:latest"]
    assert entry.digest and entry.size and entry.modified_at
    assert entry.details and (entry.details.family, entry.details.format) == ("llama", "gguf")


def test_show_tells_what_create_was_told(server: OllamaUnderTest, base: str) -> None:
    """Template, parameters, license and the file's metadata are shown."""
    name = server.name("shown")
    server.client.create(
        name, from_=base, system="You are old.", license="MIT of this test", stream=False
    )
    shown = server.client.show(name)
    assert shown.template == server.template
    assert shown.license == "MIT of this test"
    assert "num_predict" in (shown.parameters or "") and '"<|im_end|>"' in (shown.parameters or "")
    assert shown.details and shown.details.quantization_level == "Q4_1"
    assert shown.details.parent_model == f"{base}:latest"
    assert shown.modelinfo and shown.modelinfo["general.architecture"] == "llama"
    assert "You are old." in (shown.modelfile or "")


def test_create_streams_its_steps(server: OllamaUnderTest, base: str) -> None:
    """Status lines are streamed and end with success."""
    steps = server.client.create(server.name("steps"), from_=base, system="A.", stream=True)
    words = [step.status for step in steps]
    assert words[-2:] == ["writing manifest", "success"]


def test_later_create_overrides_parameters_and_keeps_the_others(
    server: OllamaUnderTest, base: str
) -> None:
    """A model made from another one inherits the fields it does not set."""
    name = server.name("inherits")
    server.client.create(name, from_=base, parameters={"num_predict": 3}, stream=False)
    answer = server.client.chat(name, server.question)
    assert answer.eval_count == 3
    assert "<|im_end|>" in (server.client.show(name).parameters or "")


def test_copy_is_the_same_model_and_outlives_the_original(
    server: OllamaUnderTest, refusal_of: RefusalOf, base: str
) -> None:
    """A copy is independent: deleting the original leaves it intact."""
    first = server.name("version")
    server.client.create(first, from_=base, system="You are Anna.", stream=False)
    server.client.copy(first, f"{first}:v1")
    digests = {m.model: m.digest for m in server.client.list().models}
    assert digests[f"{first}:v1"] == digests[f"{first}:latest"]
    server.client.delete(first)
    assert server.ask(f"{first}:v1", num_predict=2)
    assert refusal_of(lambda: server.client.show(first)).status_code == 404


def test_name_is_the_same_in_any_case(server: OllamaUnderTest, base: str) -> None:
    """Ollama folds case: ids that differ only in case would share one model."""
    name = server.name("Case")
    server.client.create(name, from_=base, system="A.", stream=False)
    assert (
        server.client.show(name.upper().replace("CONTRACT", "contract")).template == server.template
    )


@pytest.mark.parametrize("verb", ["show", "delete", "chat", "generate"])
def test_unknown_model_is_404_by_name(
    server: OllamaUnderTest, refusal_of: RefusalOf, verb: str
) -> None:
    """The status and message by which clients recognise a missing model."""
    name = f"{server.run}-nobody"
    calls: dict[str, Callable[[], object]] = {
        "show": lambda: server.client.show(name),
        "delete": lambda: server.client.delete(name),
        "chat": lambda: server.client.chat(name, server.question),
        "generate": lambda: server.client.generate(name, "Hello"),
    }
    error = refusal_of(calls[verb])
    assert error.status_code == 404
    assert "not found" in error.error and name in error.error


def test_copy_of_unknown_model_is_404(server: OllamaUnderTest, refusal_of: RefusalOf) -> None:
    """A rollback to a version that is gone must fail clearly."""
    name = f"{server.run}-nobody"
    assert refusal_of(lambda: server.client.copy(name, f"{name}:v2")).status_code == 404


# -- what is refused --------------------------------------------------------------------------


def test_wrong_json_is_400(server: OllamaUnderTest) -> None:
    """An incomplete or empty body is answered with 400."""
    for body in (b'{"model": ', b""):
        answer = httpx.post(f"{server.host}/api/chat", content=body)
        assert answer.status_code == 400 and answer.json()["error"]


def test_names_that_are_none_are_400(server: OllamaUnderTest, base: str) -> None:
    """Empty, or with invalid characters; `copy` says which of its two names is wrong."""
    calls: tuple[tuple[str, str, dict[str, object], str], ...] = (
        ("POST", "create", {"model": "", "from": base}, "invalid model name"),
        ("POST", "create", {"model": "a b", "from": base}, "invalid model name"),
        ("POST", "create", {"model": "x", "from": "a b"}, "invalid model name"),
        ("POST", "show", {}, "model is required"),
        ("POST", "show", {"model": "a b"}, "invalid model name"),
        ("POST", "chat", {"model": ""}, "model is required"),
        ("DELETE", "delete", {}, "model is required"),
        ("DELETE", "delete", {"model": "a b"}, 'name "a b" is invalid'),
        ("POST", "copy", {"source": "a b"}, 'source "a b" is invalid'),
        ("POST", "copy", {"source": base}, 'destination "" is invalid'),
    )
    for method, path, body, sentence in calls:
        answer = httpx.request(method, f"{server.host}/api/{path}", json=body)
        assert (answer.status_code, answer.json()["error"]) == (400, sentence), (path, body)


def test_blob_with_wrong_hash_is_refused(server: OllamaUnderTest) -> None:
    """A damaged upload leaves nothing under the promised name."""
    url = f"{server.host}/api/blobs/sha256:{'1' * 64}"
    assert httpx.post(url, content=b"something else").status_code == 400
    assert httpx.head(url).status_code == 404


def test_uploaded_blob_is_found(server: OllamaUnderTest, tmp_path: Path) -> None:
    """`HEAD` tells a client whether it has to upload a blob."""
    path = tmp_path / "small"
    path.write_bytes(b"a blob of this test")
    digest = server.client.create_blob(path)
    assert httpx.head(f"{server.host}/api/blobs/{digest}").status_code == 200


def test_sampling_that_was_given_up_is_refused_by_version(
    server: OllamaUnderTest, refusal_of: RefusalOf, base: str
) -> None:
    """`typical_p`, in a model's parameters and in a request."""
    name = server.name("typical")
    calls: tuple[Callable[[], object], ...] = (
        lambda: server.client.create(name, from_=base, parameters={"typical_p": 0.5}, stream=False),
        lambda: server.ask(base, typical_p=0.5, num_predict=1),
    )
    for call in calls:
        if server.is_old:
            call()
        else:
            error = refusal_of(call)
            assert (error.status_code, error.error) == (400, "typical_p is no longer supported")


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("temperature", "hot", "of type float32"),
        ("num_ctx", "x", "of type integer"),
        ("stop", "x", "of type array"),
        ("stop", [1], "of an array of strings"),
    ],
)
def test_wrong_option_is_a_500_that_names_it(
    server: OllamaUnderTest, refusal_of: RefusalOf, base: str, name: str, value: object, word: str
) -> None:
    """Status 500 instead of 400: clients must not mistake it for an outage and retry."""
    error = refusal_of(lambda: server.ask(base, **{name: value}))
    assert (error.status_code, error.error) == (500, f'option "{name}" must be {word}')


def test_wrong_parameter_shows_at_the_first_chat(
    server: OllamaUnderTest, refusal_of: RefusalOf, base: str
) -> None:
    """`create` does not validate parameters; the request that uses them fails."""
    name = server.name("hot")
    server.client.create(name, from_=base, parameters={"temperature": "hot"}, stream=False)
    assert refusal_of(lambda: server.ask(name)).status_code == 500
