"""The fake training runner: base and adapter decide its merged file, as they do a real one's."""

from pathlib import Path

import pytest

from pipeline.storage.files import check_folder, hash_file
from schemas.errors import ArtefactCorrupt, DiskFull, LeaseLost
from schemas.hosting import MergeSpec
from schemas.training import TrainingProgress
from tests.fakes.training import FakeTrainingRunner


def spec_of(folder: Path, base: bytes = b"base", adapter: bytes = b"adapter") -> MergeSpec:
    folder.mkdir()
    (folder / "base.gguf").write_bytes(base)
    (folder / "adapter.gguf").write_bytes(adapter)
    return MergeSpec(
        job_id="ANN_1",
        elder_id="ANN",
        fence=1,
        base_gguf=folder / "base.gguf",
        adapter_gguf=folder / "adapter.gguf",
        adapter_sha256=hash_file(folder / "adapter.gguf"),
        quantization="q8_0",
        work_dir=folder / "work",
    )


def nothing(*_: object) -> None:
    """Neither note anything nor stop."""


def test_same_base_and_adapter_give_the_same_sealed_file(tmp_path: Path) -> None:
    runner, told = FakeTrainingRunner(), list[TrainingProgress]()
    specs = [
        spec_of(tmp_path / "a"),
        spec_of(tmp_path / "b"),
        spec_of(tmp_path / "c", base=b"other"),
        spec_of(tmp_path / "d", adapter=b"other"),
    ]
    outcomes = [runner.merge(spec, told.append, nothing) for spec in specs]
    assert outcomes[0].sha256 == outcomes[1].sha256
    assert len({outcome.sha256 for outcome in outcomes}) == 3
    for outcome in outcomes:
        check_folder(outcome.path.parent, outcome.hashes)
    assert {progress.stage for progress in told} == {"converting"}
    assert runner.merges == specs


def test_it_stops_and_fails_as_the_real_one_does(tmp_path: Path) -> None:
    runner, spec = FakeTrainingRunner(), spec_of(tmp_path / "a")
    runner.merge_failures.append(DiskFull())
    with pytest.raises(DiskFull):
        runner.merge(spec, nothing, nothing)

    def stop() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        runner.merge(spec, nothing, stop)
    assert not spec.work_dir.exists()
    spec.adapter_gguf.write_bytes(b"changed")
    with pytest.raises(ArtefactCorrupt):
        runner.merge(spec, nothing, nothing)
