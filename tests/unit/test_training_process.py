"""The border to the training child: whatever ends a run, the next one gets its own outcome."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import popen_spawn_posix
from pathlib import Path

import pytest

from pipeline.training_process import TrainingProcess
from schemas.errors import JobCancelled, LeaseLost, StoreUnavailable, TrainingFailed, TrainingKilled
from schemas.training import BaseModelSpec, TrainingParameters, TrainingProgress, TrainingSpec
from tests.training_child import BROKEN, MUTE, STEPS, serve_in_play

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


@pytest.fixture
def process() -> Iterator[TrainingProcess]:
    with TrainingProcess(serve_in_play) as opened:
        yield opened


def nothing(*_: object) -> None:
    """Neither note anything nor stop."""


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
    """Progress is written to the ledger, and the ledger may refuse it."""
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
    """An error of CUDA lasts as long as its process."""
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
