"""The estimated cost of a merge, against the real one."""

import shutil
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from pipeline.storage.files import hash_file
from pipeline.training.merging.merge import merge
from pipeline.weights.merge_plan import check_disk_space, plan_merge
from schemas.errors import AdapterUnsupported, ArtefactCorrupt, DiskFull
from schemas.hosting import MergeSpec
from tests.models.tiny_gguf import TARGET, pair, write_adapter, write_base


@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q4_0, Kind.Q6_K], ids=lambda kind: kind.name)
@pytest.mark.parametrize("alignment", [32, 64])
def test_plan_is_what_the_merge_then_writes(tmp_path: Path, kind: Kind, alignment: int) -> None:
    base = write_base(tmp_path / "base.gguf", kind, alignment=alignment, other_rows=64)
    layers = {TARGET: pair(), "blk.0.ffn_up.weight": pair(rows=64, columns=64)}
    adapter = write_adapter(tmp_path / "adapter.gguf", layers)
    plan = plan_merge(base, "q8_0")
    outcome = merge(
        MergeSpec(
            job_id="ANN_1",
            elder_id="ANN",
            fence=1,
            base_gguf=base,
            adapter_gguf=adapter,
            adapter_sha256=hash_file(adapter),
            quantization="q8_0",
            work_dir=tmp_path,
        ),
        on_progress=lambda _: None,
        should_stop=lambda: False,
    )
    assert plan.size_bytes == plan.disk_bytes == outcome.size_bytes
    assert (plan.touched_tensors, plan.tensors) == (outcome.touched_tensors, outcome.tensors)


def test_quantiser_needs_disk_space_for_both_files_and_memory_for_the_largest_tensor(
    tmp_path: Path,
) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.F16, other_rows=100_000)
    plain, smaller = plan_merge(base, "q8_0"), plan_merge(base, "q4_k_m")
    assert smaller.disk_bytes == 2 * plain.disk_bytes
    assert smaller.peak_memory_bytes >= plain.peak_memory_bytes + 100_000 * 64 * 4
    assert smaller.seconds > plain.seconds


def test_disk_space_is_checked_before_the_folder_exists(tmp_path: Path) -> None:
    plan = plan_merge(write_base(tmp_path / "base.gguf", Kind.F16), "q8_0")
    folder = tmp_path / "not" / "yet"
    check_disk_space(plan, folder)
    free = shutil.disk_usage(tmp_path).free
    too_large = plan.model_copy(update={"disk_bytes": 2 * free})
    with pytest.raises(DiskFull, match=r"needs [0-9.]+ GiB .* has [0-9.]+ GiB free"):
        check_disk_space(too_large, folder)


def test_base_that_is_not_one_whole_gguf_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactCorrupt, match="missing"):
        plan_merge(tmp_path / "absent.gguf", "q8_0")
    (tmp_path / "other.gguf").write_bytes(b"GGML and more")
    with pytest.raises(ArtefactCorrupt, match="no whole GGUF"):
        plan_merge(tmp_path / "other.gguf", "q8_0")
    with pytest.raises(AdapterUnsupported, match="3 parts"):
        plan_merge(write_base(tmp_path / "part.gguf", Kind.F16, parts=3), "q8_0")
