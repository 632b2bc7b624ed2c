"""Training runs of a tiny model on characters."""

import itertools
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PretrainedConfig

from pipeline.training.base_model import BaseModelCache, LoadedBase
from pipeline.training.recipe import train
from schemas.training import (
    BaseModelSpec,
    LoraParameters,
    TrainingOutcome,
    TrainingParameters,
    TrainingSpec,
)

BASE = BaseModelSpec(
    key="tiny", name="tiny", hf_path=Path("/none"), gguf_path=Path("/none"), chat_format="chatml"
)
PARAMETERS = TrainingParameters(
    epochs=3, batch_size=4, learning_rate=1e-2, lora=LoraParameters(rank=2, alpha=4, dropout=0.1)
)


class Characters:
    """A tokenizer of one token per character, and one per marker of ChatML."""

    bos_token_id = None
    markers = ("<|im_start|>", "<|im_end|>")

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        """Tokenize with the interface of transformers."""
        for number, marker in enumerate(self.markers):
            text = text.replace(marker, chr(128 + number))
        return {"input_ids": [ord(character) for character in text]}


class Loaded(BaseModelCache):
    """A cache with one base, which it returns for every spec."""

    def __init__(self, base: LoadedBase) -> None:
        super().__init__()
        self.base = base

    def load(self, spec: BaseModelSpec) -> LoadedBase:
        """Return the base."""
        return self.base


def tiny(config: PretrainedConfig) -> LoadedBase:
    """Return a tiny random base, the same at every call."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return LoadedBase(BASE, model.eval().requires_grad_(False), Characters())


def run(
    spec: TrainingSpec, cache: BaseModelCache, stop_after: int | None = None
) -> TrainingOutcome:
    """Train; with `stop_after`, cancel before that step (from 0)."""
    asked = itertools.count()
    return train(
        spec,
        cache,
        on_progress=lambda progress: None,
        should_stop=lambda: stop_after is not None and next(asked) >= stop_after,
    )


def weights(outcome: TrainingOutcome) -> dict[str, torch.Tensor]:
    """Read the trained matrices."""
    return load_file(outcome.adapter_path / "adapter_model.safetensors")


def largest_gap(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of any two numbers."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)
