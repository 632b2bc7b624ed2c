"""llama.cpp with a merged file says what it says with the base and the adapter."""

from pathlib import Path
from typing import Any

import ollama
import pytest
from gguf import GGMLQuantizationType as Kind

from embedded.bases import install_base
from embedded.stack import OllamaServer
from pipeline.storage.files import check_folder, hash_file
from pipeline.training.merging.merge import merge
from pipeline.weights.gguf_file import read_weights
from schemas.hosting import MergeOutcome, MergeSpec
from tests.contract.pipeline.hosting.ollama_server import CHATML
from tests.models.agreement import write_f16
from tests.models.random_weights import write_random_adapter
from tests.servers.model_hosts import find_quantizer

QUESTIONS = (
    "Who taught you to swim?",
    "Tell me of the house in which you grew up.",
    "How did you meet your wife?",
    "Which song do you remember best?",
)
TOKENS = 32


def spec_of(folder: Path, base: Path, **fields: Any) -> MergeSpec:
    folder.mkdir(exist_ok=True)
    adapter = folder / "adapter.gguf"
    write_random_adapter(adapter, seed=3)
    known = {
        "job_id": "ANN_1",
        "elder_id": "ANN",
        "fence": 1,
        "base_gguf": base,
        "adapter_gguf": adapter,
        "adapter_sha256": hash_file(adapter),
        "quantization": "q8_0",
        "work_dir": folder,
    }
    return MergeSpec.model_validate(known | fields)


def merged(spec: MergeSpec) -> MergeOutcome:
    return merge(spec, on_progress=lambda _: None, should_stop=lambda: False)


@pytest.fixture(scope="module")
def personas(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An embedded Ollama with one persona in two forms, and the base without it."""
    folder = tmp_path_factory.mktemp("merged")
    base = folder / "base.gguf"
    write_f16(install_base("smollm2-135m-instruct", folder), base)
    spec = spec_of(folder, base)
    outcome = merged(spec)
    assert outcome.touched_tensors == 30
    server = OllamaServer(folder / "ollama", "ollama-0.32")
    with server.process:
        client = ollama.Client(server.host, timeout=120)
        for name, path in (("plain", base), ("merged", outcome.path)):
            digest = client.create_blob(path)
            client.create(name, files={"model.gguf": digest}, template=CHATML, stream=False)
        digest = client.create_blob(spec.adapter_gguf)
        client.create("adapted", from_="plain", adapters={"adapter.gguf": digest}, stream=False)
        yield client
        client.close()  # type: ignore[no-untyped-call]  # the client has no py.typed


def pieces(client: ollama.Client, model: str, prompt: str, count: int) -> list[str]:
    """Continue a prompt greedily; return the text of each token."""
    options = {"temperature": 0.0, "num_predict": count, "num_ctx": 512}
    stream = client.generate(model, prompt, raw=True, stream=True, options=options)
    return [part.response for part in stream if part.response]


def test_merged_file_goes_on_as_base_and_adapter_do(personas: ollama.Client) -> None:
    """Compared token by token on the same text, so that a tie costs one token and not the rest.

    Q8_0 differs from F16 by less than a hundredth of a weight; a random adapter leaves many ties.
    """
    agreed = {"merged": 0, "plain": 0}
    count = 0
    for question in QUESTIONS:
        prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        said = pieces(personas, "adapted", prompt, TOKENS)
        assert len(said) >= TOKENS // 2
        count += len(said)
        for model in agreed:
            found = [
                pieces(personas, model, prompt + "".join(said[:n]), 1) for n in range(len(said))
            ]
            agreed[model] += sum(
                next_one == [piece] for next_one, piece in zip(found, said, strict=True)
            )
    assert count >= 3 * TOKENS
    assert agreed["merged"] >= 0.95 * count, (agreed, count)
    assert agreed["plain"] <= 0.85 * count, (agreed, count)


def quantizer() -> Path:
    """Return llama.cpp's quantiser, or skip the test."""
    found = find_quantizer()
    if found is None:
        pytest.skip("no llama-quantize: call `make hosts` once, or set LLAMA_QUANTIZE_BIN")
    return found


def test_whole_file_is_made_smaller_by_llama_cpps_quantiser(tmp_path: Path) -> None:
    """The base is quantised already; every tensor keeps its name and shape."""
    base = install_base("smollm2-135m-instruct", tmp_path)
    usual = merged(spec_of(tmp_path / "usual", base))
    smaller = merged(
        spec_of(tmp_path / "smaller", base, quantization="q4_k_m", quantizer=quantizer())
    )
    check_folder(smaller.path.parent, smaller.hashes)
    before, after = read_weights(usual.path), read_weights(smaller.path)
    assert {t.name: t.shape for t in after.tensors} == {t.name: t.shape for t in before.tensors}
    assert after.quantization == "Q4_K_M"
    touched = {t.name: t.type for t in after.tensors if "attn_output.weight" in t.name}
    assert len(touched) == 30 and Kind.Q8_0 not in touched.values()
    assert smaller.size_bytes == smaller.path.stat().st_size
