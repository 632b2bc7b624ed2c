"""Loss and gradient of a packed row are those of its examples one by one."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import Gemma3TextConfig, LlamaConfig

from pipeline.training.loss import row_loss
from pipeline.training.packing import pack
from pipeline.training.tokens import Example
from schemas.training import LoraParameters
from tests.integration.pipeline.training.tiny_runs import tiny
from tests.models.tiny_families import TINY_SIZES

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # peft asks transformers for a name that transformers is giving up.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

PREFIX = (5, 6, 7, 8, 9)
ROWS = [
    Example(PREFIX, (20, 21), (30, 31, 32)),
    Example(PREFIX, (22,), (33,)),
    Example(PREFIX, (23, 24, 25), (34, 35)),
]


def plain_loss(model: Any, example: Example) -> torch.Tensor:
    """Return the loss of an example alone, by transformers' own causal mask."""
    ids = [*example.prefix, *example.question, *example.answer]
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    first = len(ids) - len(example.answer)
    targets = torch.tensor(ids[first:])
    return F.cross_entropy(logits[first - 1 : -1].float(), targets, reduction="sum")


LAYERS = ["sliding_attention", "full_attention"]
SHARED_PREFIX_CONFIGS = {
    "llama": LlamaConfig(**TINY_SIZES),
    "gemma3": Gemma3TextConfig(**TINY_SIZES, layer_types=LAYERS),
    # Examples longer than the window, as max_seq_length above 512 allows for Gemma 3.
    "gemma3 past its window": Gemma3TextConfig(**TINY_SIZES, layer_types=LAYERS, sliding_window=4),
}


@pytest.mark.parametrize("name", SHARED_PREFIX_CONFIGS)
def test_a_shared_prefix_changes_neither_loss_nor_gradient(name: str) -> None:
    """One row of three examples against three rows of one."""
    base = tiny(SHARED_PREFIX_CONFIGS[name])
    with base.lend(LoraParameters(rank=2, alpha=4, dropout=0.0), seed=1) as model:
        trained = [p for p in model.parameters() if p.requires_grad]
        torch.manual_seed(2)
        with torch.no_grad():
            for parameter in trained:
                parameter.normal_(std=0.1)
        packed = row_loss(model, pack(ROWS))
        apart = torch.stack([plain_loss(model, example) for example in ROWS]).sum()
        assert packed.item() == pytest.approx(apart.item(), rel=1e-5)
        gradients = torch.autograd.grad(packed, trained), torch.autograd.grad(apart, trained)
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
