"""The recipe on a tiny model: what is trained, told and refused."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.training.recipe import train
from schemas.errors import ArtefactCorrupt, TrainingFailed
from schemas.training import TrainingProgress
from tests.integration.pipeline.training.tiny_runs import Loaded, run

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # peft asks transformers for a name that transformers is giving up.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


def test_training_that_diverges_ends_without_an_adapter(
    cache: Loaded, make: Callable[..., Any]
) -> None:
    """Weights after such a step are useless, and JSON has no NaN."""
    spec = make(1)
    spoilt = next(cache.base.model.parameters())
    spoilt.fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="learning_rate"):
        run(spec, cache)
    assert not (spec.work_dir / "adapter").exists()


def test_a_changed_data_set_is_refused(cache: Loaded, make: Callable[..., Any]) -> None:
    """A job trains on exactly the data set that it was accepted with."""
    spec = make(1)
    spec.dataset_path.write_bytes(spec.dataset_path.read_bytes() + b" ")
    with pytest.raises(ArtefactCorrupt):
        run(spec, cache)


def test_progress_is_honest(cache: Loaded, make: Callable[..., Any]) -> None:
    """Stages come in order, steps only grow, and the estimate follows from measured steps."""
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
    # This clock advances by half a second per reading, so a step takes at least that.
    assert half.eta_seconds is not None
    assert half.eta_seconds >= 0.5 * 5
    assert told[-2].eta_seconds == 0
