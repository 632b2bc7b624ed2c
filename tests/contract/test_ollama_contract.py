"""What ModelServer relies on in Ollama: models, their blobs, and what is refused.

Tried through the `ollama` client on each server; answers and personas are in
test_ollama_answers.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.contract.conftest import MergedGguf, OllamaUnderTest, RefusalOf, WriteAdapter


# -- being there ------------------------------------------------------------------------------


def test_server_says_that_it_runs_and_its_version(server: OllamaUnderTest) -> None:
    """`GET /` and `/api/version`, which a health check asks."""
    assert httpx.get(server.host).text == "Ollama is running"
    assert httpx.get(f"{server.host}/api/version").json()["version"][0].isdigit()


# -- models -----------------------------------------------------------------------------------


def test_created_model_is_listed_with_its_tag(server: OllamaUnderTest, base: str) -> None:
    """A model without a tag is `latest`, with digest, size and details."""
    (entry,) = [m for m in server.client.list().models if m.model == f"{base}:latest"]
    assert entry.digest and entry.size and entry.modified_at
    assert entry.details and (entry.details.family, entry.details.format) == ("llama", "gguf")


def test_show_tells_what_create_was_told(server: OllamaUnderTest, base: str) -> None:
    """Template, parameters, licence and the file's own facts come back."""
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
    """The steps come line by line and end with success."""
    steps = server.client.create(server.name("steps"), from_=base, system="A.", stream=True)
    words = [step.status for step in steps]
    assert words[-2:] == ["writing manifest", "success"]


def test_later_create_overrides_parameters_and_keeps_the_others(
    server: OllamaUnderTest, base: str
) -> None:
    """A model made from another one inherits what it does not say itself."""
    name = server.name("inherits")
    server.client.create(name, from_=base, parameters={"num_predict": 3}, stream=False)
    answer = server.client.chat(name, server.question)
    assert answer.eval_count == 3
    assert "<|im_end|>" in (server.client.show(name).parameters or "")


def test_copy_is_the_same_model_and_outlives_the_original(
    server: OllamaUnderTest, refusal_of: RefusalOf, base: str
) -> None:
    """Versions are tags: `copy` makes one, and deleting the other leaves it whole."""
    first = server.name("version")
    server.client.create(first, from_=base, system="You are Anna.", stream=False)
    server.client.copy(first, f"{first}:v1")
    digests = {m.model: m.digest for m in server.client.list().models}
    assert digests[f"{first}:v1"] == digests[f"{first}:latest"]
    server.client.delete(first)
    assert server.ask(f"{first}:v1", num_predict=2)
    assert refusal_of(lambda: server.client.show(first)).status_code == 404


def test_name_is_the_same_in_any_case(server: OllamaUnderTest, base: str) -> None:
    """Ollama folds case: ids that differ in case only would share one model."""
    name = server.name("Case")
    server.client.create(name, from_=base, system="A.", stream=False)
    assert (
        server.client.show(name.upper().replace("CONTRACT", "contract")).template == server.template
    )


@pytest.mark.parametrize("verb", ["show", "delete", "chat", "generate"])
def test_unknown_model_is_404_by_name(
    server: OllamaUnderTest, refusal_of: RefusalOf, verb: str
) -> None:
    """The code and the sentence that tell "not there" from every other trouble."""
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
    """A half body and an empty one are the sender's mistake."""
    for body in (b'{"model": ', b""):
        answer = httpx.post(f"{server.host}/api/chat", content=body)
        assert answer.status_code == 400 and answer.json()["error"]


def test_create_from_unknown_model_fails(server: OllamaUnderTest, refusal_of: RefusalOf) -> None:
    """Ollama tries to pull it: offline, or unknown to the registry, an error either way."""
    name = server.name("orphan")
    error = refusal_of(
        lambda: server.client.create(name, from_=f"{server.run}/nobody", stream=False)
    )
    assert error.status_code in (400, 500)


def test_create_with_missing_blob_fails(
    server: OllamaUnderTest, refusal_of: RefusalOf, base: str
) -> None:
    """A manifest never names a blob that is not there."""
    digest = "sha256:" + "0" * 64
    name, files = server.name("blobless"), {"model.gguf": digest}
    whole = refusal_of(lambda: server.client.create(name, files=files, stream=False))
    assert whole.status_code == 500 and "no such file" in whole.error
    adapted = refusal_of(
        lambda: server.client.create(name, from_=base, adapters=files, stream=False)
    )
    assert adapted.status_code == 400
    assert refusal_of(lambda: server.client.show(name)).status_code == 404


def test_adapter_is_taken_or_refused_by_version(
    server: OllamaUnderTest,
    refusal_of: RefusalOf,
    base: str,
    write_adapter: WriteAdapter,
    tmp_path: Path,
) -> None:
    """Since 0.34.1 `create` refuses every adapter, and says so before it looks at it."""
    path, name = tmp_path / "adapter.gguf", server.name("adapted")
    write_adapter(path, 6)
    adapters = {"a.gguf": server.client.create_blob(path)}
    create = partial(server.client.create, name, from_=base, adapters=adapters, stream=False)
    if server.takes_adapters:
        assert create().status == "success"
        return
    error = refusal_of(create)
    assert (error.status_code, error.error) == (400, "LoRA adapters are no longer supported")
    as_model = refusal_of(lambda: server.client.create(name, files=adapters, stream=False))
    assert as_model.status_code == 400
    assert as_model.error == "LoRA adapters are no longer supported: a.gguf is a LoRA adapter"
    assert refusal_of(lambda: server.client.show(name)).status_code == 404


def test_second_adapter_is_refused(
    server: OllamaUnderTest, refusal_of: RefusalOf, base: str
) -> None:
    """One person a model."""
    digest = "sha256:" + "0" * 64
    two = {"a.gguf": digest, "b.gguf": digest}
    name = server.name("twofold")
    error = refusal_of(lambda: server.client.create(name, from_=base, adapters=two, stream=False))
    one_only = "only one adapter is currently supported"
    expected = one_only if server.takes_adapters else "LoRA adapters are no longer supported"
    assert (error.status_code, error.error) == (400, expected)


def test_merged_model_is_made_from_one_file(
    server: OllamaUnderTest, merged_gguf: MergedGguf
) -> None:
    """Every version takes it; its file type stays the base's, whatever some tensors are."""
    name = server.name("merged")
    digest = server.client.create_blob(merged_gguf(1))
    server.client.create(
        name, files={"m.gguf": digest}, template=server.template, system="S.", stream=False
    )
    shown = server.client.show(name)
    assert shown.template == server.template and "S." in (shown.modelfile or "")
    assert shown.details and shown.details.quantization_level == "Q4_1"
    assert server.ask(name, num_predict=2)


@pytest.mark.parametrize("end", [30, 4_000_000])
def test_cut_off_file_makes_no_model(
    server: OllamaUnderTest, refusal_of: RefusalOf, base_gguf: Path, tmp_path: Path, end: int
) -> None:
    """Whether its header ends too early or its tensors do: a half written merge is one of these."""
    cut = tmp_path / "cut.gguf"
    with base_gguf.open("rb") as file:
        cut.write_bytes(file.read(end))
    name, files = server.name("cut"), {"cut.gguf": server.client.create_blob(cut)}
    error = refusal_of(lambda: server.client.create(name, files=files, stream=False))
    assert error.status_code == 500
    assert ("EOF" if end == 30 else "exceeds file size") in error.error
    assert refusal_of(lambda: server.client.show(name)).status_code == 404


def test_file_that_is_no_model_is_refused(
    server: OllamaUnderTest, refusal_of: RefusalOf, tmp_path: Path
) -> None:
    """Older versions call it the request's fault, newer ones their own."""
    path, name = tmp_path / "text.gguf", server.name("text")
    path.write_bytes(b"once upon a time")
    files = {"text.gguf": server.client.create_blob(path)}
    error = refusal_of(lambda: server.client.create(name, files=files, stream=False))
    assert error.status_code == (400 if server.takes_adapters else 500)
    assert refusal_of(lambda: server.client.show(name)).status_code == 404


def test_failure_of_a_streamed_create_is_its_last_line(server: OllamaUnderTest) -> None:
    """The status was sent with the first step, and is 200."""
    body = {"model": server.name("late"), "files": {"model.gguf": "sha256:" + "0" * 64}}
    answer = httpx.post(f"{server.host}/api/create", json=body)
    first, *_, last = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.status_code == 200
    assert first == {"status": "parsing GGUF"} and "no such file" in last["error"]


def test_names_that_are_none_are_400(server: OllamaUnderTest, base: str) -> None:
    """Empty, or with what no name has; `copy` says which of the two it means."""
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
    """`HEAD` tells a client what it need not send again."""
    path = tmp_path / "small"
    path.write_bytes(b"a blob of this test")
    digest = server.client.create_blob(path)
    assert httpx.head(f"{server.host}/api/blobs/{digest}").status_code == 200


def test_bad_template_is_400(server: OllamaUnderTest, refusal_of: RefusalOf, base: str) -> None:
    """A template that cannot be parsed is refused at create, not at the first chat."""
    name = server.name("template")
    error = refusal_of(
        lambda: server.client.create(name, from_=base, template="{{ if .System }}", stream=False)
    )
    assert error.status_code == 400


def test_quantising_a_quantised_base_is_refused(
    server: OllamaUnderTest, refusal_of: RefusalOf, base: str
) -> None:
    """Newer versions quantise no GGUF at all, and name llama.cpp's tools."""
    name = server.name("quantised")
    error = refusal_of(
        lambda: server.client.create(name, from_=base, quantize="q8_0", stream=False)
    )
    if server.takes_adapters:
        expected = (500, "quantization is only supported for F16, BF16 and F32 models")
        assert (error.status_code, error.error) == expected
    else:
        assert error.status_code == 400 and "llama.cpp tools before importing" in error.error


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
        if server.takes_adapters:
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
    """Not the 400 one would expect: a client must not take it for an outage and try again."""
    error = refusal_of(lambda: server.ask(base, **{name: value}))
    assert (error.status_code, error.error) == (500, f'option "{name}" must be {word}')


def test_wrong_parameter_shows_at_the_first_chat(
    server: OllamaUnderTest, refusal_of: RefusalOf, base: str
) -> None:
    """`create` takes a parameter whatever it is."""
    name = server.name("hot")
    server.client.create(name, from_=base, parameters={"temperature": "hot"}, stream=False)
    assert refusal_of(lambda: server.ask(name)).status_code == 500
