"""A tiny base, its data set, and one thread."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from schemas.training import TrainingSpec
from tests.integration.pipeline.training.tiny_runs import BASE, PARAMETERS, Loaded, tiny
from tests.models.tiny_families import TINY_SIZES


@pytest.fixture
def cache() -> Loaded:
    """Return a cache with a tiny Llama in it."""
    return Loaded(tiny(LlamaConfig(**TINY_SIZES)))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., TrainingSpec]:
    """Return a function that makes attempts at the same job, each with a folder of its own."""
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


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute in one thread: with so small a model, more of them only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
