"""The recipe on a tiny random model: interrupted, starved of memory or packed, the same result."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PretrainedConfig

from pipeline.training.base_model import BaseModelCache, LoadedBase
from pipeline.training.recipe import rate, row_loss, train
from pipeline.training.tokens import Example, pack
from schemas.errors import ArtefactCorrupt, JobCancelled, TrainingFailed, TrainingOutOfMemory
from schemas.training import (
    BaseModelSpec,
    LoraParameters,
    TrainingOutcome,
    TrainingParameters,
    TrainingProgress,
    TrainingSpec,
)
from tests.models.tiny_families import TINY_SIZES

# peft asks transformers for a name that transformers is giving up.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

BASE = BaseModelSpec(
    key="tiny", name="tiny", hf_path=Path("/none"), gguf_path=Path("/none"), chat_format="chatml"
)
PARAMETERS = TrainingParameters(
    epochs=3, batch_size=4, learning_rate=1e-2, lora=LoraParameters(rank=2, alpha=4, dropout=0.1)
)


class Characters:
    """A tokenizer of one token a character, with ChatML's markers."""

    bos_token_id = None
    markers = ("<|im_start|>", "<|im_end|>")

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        """Return ids as a transformers tokenizer does."""
        for number, marker in enumerate(self.markers):
            text = text.replace(marker, chr(128 + number))
        return {"input_ids": [ord(character) for character in text]}


class Loaded(BaseModelCache):
    """A cache that has its base already."""

    def __init__(self, base: LoadedBase) -> None:
        super().__init__()
        self.base = base

    def load(self, spec: BaseModelSpec) -> LoadedBase:
        """Return it, whatever is asked for."""
        return self.base


def tiny(config: PretrainedConfig) -> LoadedBase:
    """Return a tiny random base; the same one each time."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return LoadedBase(BASE, model.eval().requires_grad_(False), Characters())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute in one thread: for so small a model a second one only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cache() -> Loaded:
    """Return a cache with a tiny Llama in it."""
    return Loaded(tiny(LlamaConfig(**TINY_SIZES)))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., TrainingSpec]:
    """Return what makes an attempt at the same job, in a folder of its own."""
    turns = [("You are Li.", f"Question {n}?", f"Answer {n * 'x'}.") for n in range(10)]
    roles = ("system", "user", "assistant")
    lines = [
        json.dumps({"messages": [{"role": r, "content": c} for r, c in zip(roles, t, strict=True)]})
        for t in turns
    ]
    data = ("\n".join(lines) + "\n").encode()
    (tmp_path / "d.jsonl").write_bytes(data)

    def spec(fence: int = 1, resume_from: tuple[Path, ...] = (), **over: Any) -> TrainingSpec:
        return TrainingSpec(
            job_id="L_1",
            elder_id="L",
            fence=fence,
            base=BASE,
            parameters=PARAMETERS.overlaid(over),
            dataset_path=tmp_path / "d.jsonl",
            dataset_sha256=hashlib.sha256(data).hexdigest(),
            work_dir=tmp_path / f"fence-{fence}",
            resume_from=resume_from,
        )

    return spec


def run(
    spec: TrainingSpec, cache: BaseModelCache, stop_after: int | None = None
) -> TrainingOutcome:
    """Train, told to stop before step `stop_after` (from 0)."""
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


def test_the_same_seed_gives_the_same_adapter(cache: Loaded, make: Callable[..., Any]) -> None:
    """Bit for bit; another seed gives another one."""
    one, two = run(make(1), cache), run(make(2), cache)
    assert one.adapter_sha256 == two.adapter_sha256
    assert one.gguf_sha256 == two.gguf_sha256
    assert run(make(3, seed=1), cache).adapter_sha256 != one.adapter_sha256


@pytest.mark.parametrize("stop_after", [1, 4, 8])
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    cache: Loaded, make: Callable[..., Any], stop_after: int
) -> None:
    """With dropout, in another attempt's folder: the same bits."""
    whole = run(make(1), cache)
    with pytest.raises(JobCancelled):
        run(make(2), cache, stop_after)
    resumed = run(make(3, resume_from=(make(2).work_dir,)), cache)
    assert resumed.resumed_from_step == stop_after
    assert largest_gap(weights(resumed), weights(whole)) == 0.0


@pytest.mark.parametrize(("damaged", "resumed_from"), [(1, 1), (2, 0)])
def test_a_run_whose_newest_checkpoints_are_damaged_goes_on_from_an_older_one(
    cache: Loaded, make: Callable[..., Any], damaged: int, resumed_from: int
) -> None:
    """Or from the beginning where none is whole; it ends as an uninterrupted one, bit for bit."""
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
    """Other parameters are another run."""
    with pytest.raises(JobCancelled):
        run(make(1), cache, 2)
    other = run(make(2, resume_from=(make(1).work_dir,), learning_rate=1e-3), cache)
    assert other.resumed_from_step == 0


def test_a_job_leaves_the_base_as_it_was(cache: Loaded, make: Callable[..., Any]) -> None:
    """Weights, modules and answers, bit for bit; after a cancelled job too."""
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


def starve(base: LoadedBase, error: Exception, most_tokens: int) -> Any:
    """Let memory run out where a row has more than so many tokens."""

    def check(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] > most_tokens:
            raise error

    return base.model.register_forward_pre_hook(check, with_kwargs=True)


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."),
    # What the CPU's allocator raises; it has no type of its own.
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to …"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["python", "cuda", "cpu"])
def test_less_memory_changes_the_speed_and_not_the_result(
    cache: Loaded, make: Callable[..., Any], error: Exception
) -> None:
    """The micro-batch is halved, the effective batch stays: equal but for rounding."""
    no_dropout = {"lora": {"dropout": 0.0}}
    whole = run(make(1, **no_dropout), cache)
    hook = starve(cache.base, error, most_tokens=150)
    try:
        starved = run(make(2, **no_dropout), cache)
    finally:
        hook.remove()
    assert starved.total_steps == whole.total_steps
    assert largest_gap(weights(starved), weights(whole)) < 1e-4


def test_too_little_for_one_example_is_said_so(cache: Loaded, make: Callable[..., Any]) -> None:
    """The job is rejected with its own code."""
    hook = starve(cache.base, MemoryError(), most_tokens=1)
    try:
        with pytest.raises(TrainingOutOfMemory):
            run(make(1), cache)
    finally:
        hook.remove()


def test_other_errors_are_not_taken_for_memory(cache: Loaded, make: Callable[..., Any]) -> None:
    """A mistake must not be hidden behind smaller batches."""
    hook = starve(cache.base, RuntimeError("shape mismatch"), most_tokens=1)
    try:
        with pytest.raises(RuntimeError, match="shape mismatch"):
            run(make(1), cache)
    finally:
        hook.remove()


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
