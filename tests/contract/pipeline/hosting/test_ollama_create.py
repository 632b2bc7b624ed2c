"""What `create` accepts and refuses, by version of Ollama."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.contract.pipeline.hosting.ollama_server import (
        MergedGguf,
        OllamaUnderTest,
        RefusalOf,
        WriteAdapter,
    )


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
    """A manifest never names a missing blob."""
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
    """Since 0.34.1 `create` refuses every adapter without looking at it."""
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
    """A model has one adapter at most."""
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
    """Every version accepts it; the reported file type is the base's."""
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
    """The header or the tensors end too early, as in a half-written merge."""
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
    """Older versions answer 400, newer ones 500."""
    path, name = tmp_path / "text.gguf", server.name("text")
    path.write_bytes(b"once upon a time")
    files = {"text.gguf": server.client.create_blob(path)}
    error = refusal_of(lambda: server.client.create(name, files=files, stream=False))
    assert error.status_code == (400 if server.is_old else 500)
    assert refusal_of(lambda: server.client.show(name)).status_code == 404


def test_failure_of_a_streamed_create_is_its_last_line(server: OllamaUnderTest) -> None:
    """The error comes in the last line: status 200 was sent with the first one."""
    body = {"model": server.name("late"), "files": {"model.gguf": "sha256:" + "0" * 64}}
    answer = httpx.post(f"{server.host}/api/create", json=body)
    first, *_, last = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.status_code == 200
    assert first == {"status": "parsing GGUF"} and "no such file" in last["error"]


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
    """Newer versions never quantize GGUF and refer to llama.cpp's tools."""
    name = server.name("quantised")
    error = refusal_of(
        lambda: server.client.create(name, from_=base, quantize="q8_0", stream=False)
    )
    if server.is_old:
        expected = (500, "quantization is only supported for F16, BF16 and F32 models")
        assert (error.status_code, error.error) == expected
    else:
        assert error.status_code == 400 and "llama.cpp tools before importing" in error.error
