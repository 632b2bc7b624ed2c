"""llama.cpp's quantiser after a merge: its errors are reported, and it ends with its job."""

from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from pipeline.training.merging.merge import merge
from schemas.errors import JobCancelled, QuantizerFailed
from tests.models.tiny_gguf import TARGET, pair, write_adapter, write_base
from tests.unit.pipeline.training.merging.merges import left_in, merged, nothing, spec_of


def script(tmp_path: Path, lines: str) -> Path:
    path = tmp_path / "llama-quantize"
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("quantizer", "said"),
    [
        (lambda folder: None, "MODELSERVER_HOST__QUANTIZER"),
        (lambda folder: folder / "absent", "MODELSERVER_HOST__QUANTIZER"),
        (lambda folder: write_adapter(folder / "data", {}), "cannot be started: Permission"),
        (lambda folder: script(folder, "echo first; echo no such type >&2; exit 3"), "code 3: no"),
        (lambda folder: script(folder, "kill -9 $$"), "it said nothing"),
        (lambda folder: script(folder, "exit 0"), "code 0"),
    ],
    ids=["none", "absent", "no program", "failing", "killed", "without a file"],
)
def test_failing_quantiser_is_reported_with_its_last_line(
    tmp_path: Path, quantizer: Callable[[Path], Path | None], said: str
) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.F32)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    fields = {"quantization": "q4_k_m", "quantizer": quantizer(tmp_path)}
    with pytest.raises(QuantizerFailed, match=said):
        merged(base, adapter, tmp_path / "work", **fields)
    assert left_in(tmp_path / "work") == []


def test_quantiser_is_killed_with_its_job(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.F32)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    running = tmp_path / "pid"
    quantizer = script(
        tmp_path, f"echo $$ > {running}.new; mv {running}.new {running}; exec sleep 600"
    )
    with pytest.raises(JobCancelled):
        merge(
            spec_of(base, adapter, tmp_path / "work", quantization="q4_k_m", quantizer=quantizer),
            on_progress=nothing,
            should_stop=running.exists,
        )
    assert not Path("/proc", running.read_text().strip()).exists()
    assert left_in(tmp_path / "work") == []


def test_quantiser_that_leaves_another_model_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.F32)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    quantizer = script(tmp_path, f"cp {adapter} $3")
    with pytest.raises(QuantizerFailed, match="other tensors"):
        merged(base, adapter, tmp_path / "work", quantization="q4_k_m", quantizer=quantizer)
