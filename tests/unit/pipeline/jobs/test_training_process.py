"""The training process: however a run ends, the next one gets its own outcome."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import popen_spawn_posix
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from pipeline.jobs.training_process import TrainingProcess
from pipeline.storage.files import hash_file
from pipeline.storage.folders import check_folder
from schemas.errors import (
    AdapterMismatch,
    JobCancelled,
    LeaseLost,
    StoreUnavailable,
    TrainingFailed,
    TrainingKilled,
)
from schemas.hosting import MergeSpec
from schemas.training import BaseModelSpec, TrainingParameters, TrainingProgress, TrainingSpec
from tests.models.tiny_gguf import TARGET, pair, write_adapter, write_base
from tests.unit.pipeline.jobs.training_child import BROKEN, MUTE, STEPS, serve_in_play

BASE = BaseModelSpec(
    key="tiny", name="tiny", hf_path=Path("/none"), gguf_path=Path("/none"), chat_format="chatml"
)


def spec_of(elder: str) -> TrainingSpec:
    return TrainingSpec(
        job_id=f"{elder}_1",
        elder_id=elder,
        fence=1,
        base=BASE,
        parameters=TrainingParameters(),
        dataset_path=Path("/none"),
        dataset_sha256="a" * 64,
        work_dir=Path("/work") / elder,
    )


def merge_spec_of(elder: str) -> MergeSpec:
    return MergeSpec(
        job_id=f"{elder}_1",
        elder_id=elder,
        fence=1,
        base_gguf=Path("/none"),
        adapter_gguf=Path("/none"),
        adapter_sha256="a" * 64,
        quantization="q8_0",
        work_dir=Path("/work") / elder,
    )


@pytest.fixture
def process() -> Iterator[TrainingProcess]:
    with TrainingProcess(serve_in_play) as opened:
        yield opened


def nothing(*_: object) -> None:
    """Record nothing, raise nothing."""


def raising(error: Exception, after: int) -> Callable[..., None]:
    calls: list[object] = []

    def act(*_: object) -> None:
        calls.append(None)
        if len(calls) > after:
            raise error

    return act


def test_progress_comes_in_order_and_then_the_outcome(process: TrainingProcess) -> None:
    seen: list[TrainingProgress] = []
    outcome = process.run(spec_of("ANN"), seen.append, nothing)
    assert [p.step for p in seen] == list(range(1, STEPS + 1))
    assert outcome.gguf_path == Path("/work/ANN/adapter/adapter.gguf")


@pytest.mark.parametrize("error", [LeaseLost(), StoreUnavailable(), JobCancelled()])
@pytest.mark.parametrize("where", ["progress", "check"])
def test_run_that_was_broken_off_leaves_nothing_for_the_next_elder(
    process: TrainingProcess, where: str, error: Exception
) -> None:
    """The callback writes progress to the ledger, which may refuse it."""
    stop = raising(error, after=2)
    with pytest.raises(type(error)):
        if where == "progress":
            process.run(spec_of("ANN"), stop, nothing)
        else:
            process.run(spec_of("ANN"), nothing, stop)
    seen: list[TrainingProgress] = []
    outcome = process.run(spec_of("BEN"), seen.append, nothing)
    assert outcome.gguf_path == Path("/work/BEN/adapter/adapter.gguf")
    assert [p.step for p in seen] == list(range(1, STEPS + 1))


def test_child_that_reported_a_failure_is_not_used_for_the_next_elder(
    process: TrainingProcess,
) -> None:
    """A CUDA error lasts as long as its process."""
    process.run(spec_of("ANN"), nothing, nothing)
    first = process.pid
    with pytest.raises(TrainingFailed, match="CUDA"):
        process.run(spec_of(BROKEN), nothing, nothing)
    process.run(spec_of("BEN"), nothing, nothing)
    assert process.pid != first


def test_child_that_says_nothing_is_ended() -> None:
    with TrainingProcess(serve_in_play, silence_s=0.3) as process:
        with pytest.raises(TrainingFailed, match="said nothing"):
            process.run(spec_of(MUTE), nothing, nothing)
        assert process.pid is None


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, TrainingKilled),
        (signal.SIGTERM, TrainingKilled),
        (signal.SIGSEGV, TrainingFailed),
    ],
)
def test_child_that_is_killed_is_no_failure_and_one_that_crashes_is(
    process: TrainingProcess, number: signal.Signals, said: type[Exception]
) -> None:
    def strike(*_: object) -> None:
        os.kill(process.pid or 0, number)

    with pytest.raises(said):
        process.run(spec_of("ANN"), strike, nothing)
    outcome = process.run(spec_of("BEN"), nothing, nothing)
    assert outcome.gguf_path == Path("/work/BEN/adapter/adapter.gguf")


def test_child_that_cannot_be_started_costs_one_attempt_and_no_more(
    process: TrainingProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with monkeypatch.context() as without_processes:
        without_processes.setattr(popen_spawn_posix, "Popen", refuse)
        with pytest.raises(TrainingFailed, match="could be started"):
            process.run(spec_of("ANN"), nothing, nothing)
    outcome = process.run(spec_of("BEN"), nothing, nothing)
    assert outcome.gguf_path == Path("/work/BEN/adapter/adapter.gguf")


def test_merge_is_followed_as_a_training_is(process: TrainingProcess) -> None:
    seen: list[TrainingProgress] = []
    outcome = process.merge(merge_spec_of("ANN"), seen.append, nothing)
    assert [(p.stage, p.step) for p in seen] == [("converting", n + 1) for n in range(STEPS)]
    assert outcome.path == Path("/work/ANN/merged/merged.gguf")


def test_merge_that_was_broken_off_leaves_nothing_for_the_next_elder(
    process: TrainingProcess,
) -> None:
    with pytest.raises(LeaseLost):
        process.merge(merge_spec_of("ANN"), raising(LeaseLost(), after=2), nothing)
    assert process.run(spec_of("BEN"), nothing, nothing).adapter_path == Path("/work/BEN/adapter")
    assert process.merge(merge_spec_of("BEN"), nothing, nothing).path.parts[2] == "BEN"


def real_merge_spec(base: Path, adapter: Path, folder: Path) -> MergeSpec:
    return merge_spec_of("ANN").model_copy(
        update={
            "base_gguf": base,
            "adapter_gguf": adapter,
            "adapter_sha256": hash_file(adapter),
            "work_dir": folder / "work",
        }
    )


def test_real_child_merges_without_torch_and_errors_keep_their_code(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q8_0)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    spec = real_merge_spec(base, adapter, tmp_path)
    with TrainingProcess() as process:
        outcome = process.merge(spec, nothing, nothing)
        check_folder(outcome.path.parent, outcome.hashes)
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        assert "numpy" in mapped and "libtorch" not in mapped
        child = process.pid
        write_adapter(adapter, {TARGET: pair()}, architecture="qwen2")
        other = spec.model_copy(update={"adapter_sha256": hash_file(adapter)})
        with pytest.raises(AdapterMismatch, match="qwen2"):
            process.merge(other, nothing, nothing)
        assert process.pid == child


def test_quantiser_ends_with_the_child_that_started_it(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.F32)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    running, quantizer = tmp_path / "pid", tmp_path / "llama-quantize"
    quantizer.write_text(
        f"#!/bin/sh\necho $$ > {running}.new; mv {running}.new {running}; exec sleep 600\n"
    )
    quantizer.chmod(0o755)
    spec = real_merge_spec(base, adapter, tmp_path).model_copy(
        update={"quantization": "q4_k_m", "quantizer": quantizer}
    )
    with TrainingProcess() as process:

        def strike(*_: object) -> None:
            if running.exists():
                os.kill(process.pid or 0, signal.SIGKILL)

        with pytest.raises(TrainingKilled):
            process.merge(spec, strike, nothing)
    stat = Path("/proc", running.read_text().strip(), "stat")
    limit = time.monotonic() + 10
    while is_running(stat):
        assert time.monotonic() < limit, "the quantiser outlives its job"
        threading.Event().wait(0.02)


def is_running(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
