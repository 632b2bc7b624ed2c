"""The recipe on a tiny model: what is trained, told and refused."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import Gemma3TextConfig, LlamaConfig

from pipeline.training.recipe import rate, row_loss, train
from pipeline.training.tokens import Example, pack
from schemas.errors import ArtefactCorrupt, TrainingFailed
from schemas.training import (
    LoraParameters,
    TrainingProgress,
)
from tests.integration.pipeline.training.tiny_runs import Loaded, run, tiny
from tests.models.tiny_families import TINY_SIZES

pytestmark = pytest.mark.usefixtures("one_thread")

# peft asks transformers for a name that transformers is giving up.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def test_training_that_diverges_ends_without_an_adapter(
    cache: Loaded, make: Callable[..., Any]
) -> None:
    """What follows from such weights is no model, and NaN is no JSON."""
    spec = make(1)
    spoilt = next(cache.base.model.parameters())
    spoilt.fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="learning_rate"):
        run(spec, cache)
    assert not (spec.work_dir / "adapter").exists()


def test_a_changed_data_set_is_refused(cache: Loaded, make: Callable[..., Any]) -> None:
    """Nobody is trained on what was not announced."""
    spec = make(1)
    spec.dataset_path.write_bytes(spec.dataset_path.read_bytes() + b" ")
    with pytest.raises(ArtefactCorrupt):
        run(spec, cache)


def test_progress_is_honest(cache: Loaded, make: Callable[..., Any]) -> None:
    """Stages in order, steps that only grow, and an estimate from measured steps."""
    told: list[TrainingProgress] = []
    clock = itertools.count(0.0, 0.5)
    train(
        make(1),
        cache,
        on_progress=told.append,
        should_stop=lambda: False,
        clock=lambda: next(clock),
    )
    assert [key for key, _ in itertools.groupby(p.stage for p in told)] == [
        "preparing",
        "training",
        "converting",
    ]
    steps = [p.step for p in told if p.stage == "training"]
    assert steps == sorted(steps)
    assert (steps[-1], told[-1].total_steps) == (9, 9)
    half = next(p for p in told if p.stage == "training" and p.step == 4)
    # Each look at this clock takes half a second, so a step takes at least that.
    assert half.eta_seconds is not None
    assert half.eta_seconds >= 0.5 * 5
    assert told[-2].eta_seconds == 0


def test_the_rate_rises_and_falls() -> None:
    """Warm-up to the full rate, then down; never negative, never above."""
    rates = [rate(step, 100) for step in range(100)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1.0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] > 0


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
