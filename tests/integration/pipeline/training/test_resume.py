"""Runs that resume, and runs that repeat: the same seed gives the same adapter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from schemas.errors import JobCancelled
from tests.integration.pipeline.training.tiny_runs import Loaded, largest_gap, run, weights

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # peft asks transformers for a name that transformers is giving up.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


def test_the_same_seed_gives_the_same_adapter(cache: Loaded, make: Callable[..., Any]) -> None:
    """It is bit for bit the same, and another seed gives another one."""
    one, two = run(make(1), cache), run(make(2), cache)
    assert one.adapter_sha256 == two.adapter_sha256
    assert one.gguf_sha256 == two.gguf_sha256
    assert run(make(3, seed=1), cache).adapter_sha256 != one.adapter_sha256


@pytest.mark.parametrize("stop_after", [1, 4, 8])
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    cache: Loaded, make: Callable[..., Any], stop_after: int
) -> None:
    """The same bits, with dropout and in another attempt's folder."""
    whole = run(make(1), cache)
    with pytest.raises(JobCancelled):
        run(make(2), cache, stop_after)
    resumed = run(make(3, resume_from=(make(2).work_dir,)), cache)
    assert resumed.resumed_from_step == stop_after
    assert largest_gap(weights(resumed), weights(whole)) == 0.0


@pytest.mark.parametrize(("damaged", "resumed_from"), [(1, 1), (2, 0)])
def test_a_run_whose_newest_checkpoints_are_damaged_resumes_from_an_older_one(
    cache: Loaded, make: Callable[..., Any], damaged: int, resumed_from: int
) -> None:
    """Or from the beginning where none is sound; it ends bit for bit as an uninterrupted run."""
    whole = run(make(1), cache)
    for fence, steps, before in ((2, 1, ()), (3, 3, (make(2).work_dir,))):
        with pytest.raises(JobCancelled):
            run(make(fence, resume_from=before), cache, steps)
    folders = (make(3).work_dir, make(2).work_dir)
    for folder in folders[:damaged]:
        (checkpoint,) = folder.glob("checkpoint-*")
        path = checkpoint / "tensors.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    resumed = run(make(4, resume_from=folders), cache)
    assert resumed.resumed_from_step == resumed_from
    assert largest_gap(weights(resumed), weights(whole)) == 0.0


def test_another_jobs_checkpoint_is_not_taken_up(cache: Loaded, make: Callable[..., Any]) -> None:
    """A run with other parameters is another run."""
    with pytest.raises(JobCancelled):
        run(make(1), cache, 2)
    other = run(make(2, resume_from=(make(1).work_dir,), learning_rate=1e-3), cache)
    assert other.resumed_from_step == 0


def test_a_job_leaves_the_base_as_it_was(cache: Loaded, make: Callable[..., Any]) -> None:
    """Weights, modules and logits are the same bits, after a cancelled job too."""
    model, ids = cache.base.model, torch.arange(1, 20)[None]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = [(name, type(module)) for name, module in model.named_modules()]
    answer = model(input_ids=ids).logits.clone()
    run(make(1), cache)
    with pytest.raises(JobCancelled):
        run(make(2), cache, 1)
    model = cache.base.model.eval()
    assert [(name, type(module)) for name, module in model.named_modules()] == modules
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model(input_ids=ids).logits, answer)
    assert not any(parameter.requires_grad for parameter in model.parameters())
