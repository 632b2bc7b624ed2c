"""Less memory changes the speed and not the result."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline.training.base_model import LoadedBase
from schemas.errors import TrainingOutOfMemory
from tests.integration.pipeline.training.tiny_runs import Loaded, largest_gap, run, weights

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # peft asks transformers for a name that transformers is giving up.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


def starve(base: LoadedBase, error: Exception, most_tokens: int) -> Any:
    """Raise `error` in every forward pass of more than `most_tokens` tokens."""

    def check(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] > most_tokens:
            raise error

    return base.model.register_forward_pre_hook(check, with_kwargs=True)


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."),
    # Raised by the CPU's allocator, which has no error type of its own.
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to …"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["python", "cuda", "cpu"])
def test_less_memory_changes_the_speed_and_not_the_result(
    cache: Loaded, make: Callable[..., Any], error: Exception
) -> None:
    """The micro-batch is halved and the effective batch stays: equal but for rounding."""
    no_dropout = {"lora": {"dropout": 0.0}}
    whole = run(make(1, **no_dropout), cache)
    hook = starve(cache.base, error, most_tokens=150)
    try:
        starved = run(make(2, **no_dropout), cache)
    finally:
        hook.remove()
    assert starved.total_steps == whole.total_steps
    assert largest_gap(weights(starved), weights(whole)) < 1e-4


def test_an_example_that_does_not_fit_ends_the_job_with_its_own_code(
    cache: Loaded, make: Callable[..., Any]
) -> None:
    """The job is rejected with its own code."""
    hook = starve(cache.base, MemoryError(), most_tokens=1)
    try:
        with pytest.raises(TrainingOutOfMemory):
            run(make(1), cache)
    finally:
        hook.remove()


def test_other_errors_are_not_taken_for_out_of_memory(
    cache: Loaded, make: Callable[..., Any]
) -> None:
    """Smaller batches must not hide a defect."""
    hook = starve(cache.base, RuntimeError("shape mismatch"), most_tokens=1)
    try:
        with pytest.raises(RuntimeError, match="shape mismatch"):
            run(make(1), cache)
    finally:
        hook.remove()
