"""Base and adapter as one file: what is merged, what is copied, and what is refused."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from pipeline.storage.files import MANIFEST, PARTIAL, check_folder, hash_file
from pipeline.training.merging.merge import merge
from schemas.errors import (
    AdapterMismatch,
    AdapterUnsupported,
    ArtefactCorrupt,
    JobCancelled,
)
from schemas.hosting import MERGED_FOLDER, MERGED_GGUF, MergeOutcome, MergeSpec
from schemas.training import TrainingProgress
from tests.models.tiny_gguf import (
    ALPHA,
    COLUMNS,
    RANK,
    ROWS,
    TARGET,
    change_a_bit,
    embedding_pair,
    pair,
    write_adapter,
    write_base,
)

KINDS = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0]
# The gguf package only reads these; the blocks are random bytes with scales that are numbers.
READ_ONLY_KINDS = [Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.IQ4_XS]


def nothing(_: TrainingProgress) -> None:
    """Note nothing."""


def never() -> bool:
    return False


def spec_of(base: Path, adapter: Path, work_dir: Path, **fields: Any) -> MergeSpec:
    known = {
        "job_id": "ANN_1",
        "elder_id": "ANN",
        "fence": 1,
        "base_gguf": base,
        "adapter_gguf": adapter,
        "adapter_sha256": hash_file(adapter),
        "quantization": "q8_0",
        "work_dir": work_dir,
    }
    return MergeSpec.model_validate(known | fields)


def merged(base: Path, adapter: Path, work_dir: Path, **fields: Any) -> MergeOutcome:
    spec = spec_of(base, adapter, work_dir, **fields)
    return merge(spec, on_progress=nothing, should_stop=never)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("kind", KINDS + READ_ONLY_KINDS, ids=lambda kind: kind.name)
def test_touched_tensor_is_the_sum_in_q8_0(tmp_path: Path, kind: Kind) -> None:
    base = write_base(tmp_path / "base.gguf", kind)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    outcome = merged(base, adapter, tmp_path / "work")
    before = {t.name: t for t in gguf.GGUFReader(base).tensors}
    after = {t.name: t for t in gguf.GGUFReader(outcome.path).tensors}
    a, b = (side.astype(np.float32) for side in pair())
    whole = gguf.quants.dequantize(before[TARGET].data, kind).reshape(ROWS, COLUMNS)
    expected = gguf.quants.quantize(whole + (b * np.float32(ALPHA / RANK)) @ a, Kind.Q8_0)
    assert after[TARGET].tensor_type == Kind.Q8_0
    values = [gguf.quants.dequantize(x, Kind.Q8_0) for x in (after[TARGET].data, expected)]
    # One step of Q8_0 may differ where the order of a sum decides about a rounding.
    step = np.abs(values[1]).max() / 127
    assert np.abs(values[0] - values[1]).max() <= step * 1.01
    assert np.mean(values[0] != values[1]) < 0.001


def test_all_else_is_copied_byte_for_byte(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q4_0)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    outcome = merged(base, adapter, tmp_path / "work")
    before, after = gguf.GGUFReader(base), gguf.GGUFReader(outcome.path)
    assert [t.name for t in after.tensors] == [t.name for t in before.tensors]
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert list(new.shape) == list(old.shape)
        if old.name != TARGET:
            assert new.tensor_type == old.tensor_type
            assert new.data.tobytes() == old.data.tobytes()
    assert (outcome.touched_tensors, outcome.tensors) == (1, len(before.tensors))
    assert outcome.size_bytes == outcome.path.stat().st_size


def test_metadata_stays_but_for_the_chat_templates(tmp_path: Path) -> None:
    """With a template of its own and tools in it, Ollama would not use ours."""
    base = write_base(tmp_path / "base.gguf", Kind.Q4_0)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    outcome = merged(base, adapter, tmp_path / "work")
    before, after = (gguf.GGUFReader(path).fields for path in (base, outcome.path))
    templates = {"tokenizer.chat_template", "tokenizer.chat_template.tool_use"}
    templates |= {"tokenizer.chat_templates"}
    others = {"GGUF.kv_count", "general.file_type"}
    assert templates <= before.keys()
    assert after.keys() == before.keys() - templates
    for key in after.keys() - others:
        assert after[key].contents() == before[key].contents(), key


@pytest.mark.parametrize(("other_rows", "said"), [(2, 7), (16 * ROWS, 2)])
def test_file_type_tells_of_q8_0_where_most_weights_are(
    tmp_path: Path, other_rows: int, said: int
) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q4_0, other_rows=other_rows)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    outcome = merged(base, adapter, tmp_path / "work")
    assert gguf.GGUFReader(outcome.path).fields["general.file_type"].contents() == said


@pytest.mark.parametrize("alignment", [32, 128])
@pytest.mark.parametrize("width", [40, 24])
def test_rows_that_are_no_multiple_of_32_become_f16(
    tmp_path: Path, width: int, alignment: int
) -> None:
    """In files of any alignment."""
    base = write_base(tmp_path / "base.gguf", Kind.F32, columns=width, alignment=alignment)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair(columns=width)})
    outcome = merged(base, adapter, tmp_path / "work")
    before = {t.name: t.data for t in gguf.GGUFReader(base).tensors}
    after = {t.name: t for t in gguf.GGUFReader(outcome.path).tensors}
    a, b = (side.astype(np.float32) for side in pair(columns=width))
    expected = before[TARGET] + (b * np.float32(ALPHA / RANK)) @ a
    assert after[TARGET].tensor_type == Kind.F16
    np.testing.assert_allclose(after[TARGET].data, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(after["output_norm.weight"].data, before["output_norm.weight"])
    assert all(t.data_offset % alignment == 0 for t in after.values())


def test_adapter_without_alpha_is_added_as_it_is(tmp_path: Path) -> None:
    """As llama.cpp does."""
    base = write_base(tmp_path / "base.gguf", Kind.F32)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()}, alpha=0.0)
    outcome = merged(base, adapter, tmp_path / "work")
    before = {t.name: t.data for t in gguf.GGUFReader(base).tensors}
    after = {t.name: t.data for t in gguf.GGUFReader(outcome.path).tensors}
    a, b = (side.astype(np.float32) for side in pair())
    expected = before[TARGET] + b @ a
    found = gguf.quants.dequantize(after[TARGET], Kind.Q8_0)
    np.testing.assert_allclose(found, expected, atol=np.abs(expected).max() / 127)


def test_adapter_of_an_embedding_of_its_own_is_merged_a_row_a_token(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.F32, has_output=True)
    adapter = write_adapter(tmp_path / "adapter.gguf", {"token_embd.weight": embedding_pair()})
    outcome = merged(base, adapter, tmp_path / "work")
    before = {t.name: t.data for t in gguf.GGUFReader(base).tensors}
    after = {t.name: t.data for t in gguf.GGUFReader(outcome.path).tensors}
    a, b = (side.astype(np.float32) for side in embedding_pair())
    expected = before["token_embd.weight"] + (a * np.float32(ALPHA / RANK)) @ b.T
    found = gguf.quants.dequantize(after["token_embd.weight"], Kind.Q8_0)
    np.testing.assert_allclose(found, expected, atol=np.abs(expected).max() / 127)


def test_adapter_of_an_embedding_that_is_the_output_too_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.F32)
    adapter = write_adapter(tmp_path / "adapter.gguf", {"token_embd.weight": embedding_pair()})
    with pytest.raises(AdapterUnsupported, match="output layer"):
        merged(base, adapter, tmp_path / "work")
    assert left_in(tmp_path / "work") == []


@pytest.mark.parametrize(
    ("targets", "architecture"),
    [
        ({TARGET: pair()}, "qwen2"),
        ({TARGET: pair(columns=2 * COLUMNS)}, "llama"),
        ({TARGET: pair(rows=ROWS + 1)}, "llama"),
        ({"blk.7.attn_q.weight": pair()}, "llama"),
        ({"output_norm.weight": pair()}, "llama"),
    ],
    ids=["architecture", "width", "height", "another depth", "a vector"],
)
def test_adapter_of_another_base_is_refused_before_anything_is_written(
    tmp_path: Path, targets: dict[str, Any], architecture: str
) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q8_0)
    adapter = write_adapter(tmp_path / "adapter.gguf", targets, architecture=architecture)
    with pytest.raises(AdapterMismatch):
        merged(base, adapter, tmp_path / "work")
    assert left_in(tmp_path / "work") == []


def test_base_given_as_its_own_adapter_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q8_0)
    with pytest.raises(AdapterMismatch):
        merged(base, base, tmp_path / "work")


def test_base_in_several_files_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q8_0, parts=2)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    with pytest.raises(AdapterUnsupported, match="parts"):
        merged(base, adapter, tmp_path / "work")


@pytest.mark.parametrize("which", ["base", "adapter"])
def test_changed_bit_is_noticed(tmp_path: Path, which: str) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q8_0)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    spec = spec_of(base, adapter, tmp_path / "work", base_sha256=hash_file(base))
    change_a_bit(base if which == "base" else adapter)
    with pytest.raises(ArtefactCorrupt):
        merge(spec, on_progress=nothing, should_stop=never)
    assert left_in(tmp_path / "work") == []
    assert left_in(tmp_path) == ["adapter.gguf", "base.gguf"] or which == "base"


def test_changed_bit_of_the_merged_file_is_noticed(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q8_0)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    outcome = merged(base, adapter, tmp_path / "work")
    folder = tmp_path / "work" / MERGED_FOLDER
    assert left_in(folder) == sorted([MANIFEST, MERGED_GGUF])
    check_folder(folder, outcome.hashes)
    change_a_bit(outcome.path)
    with pytest.raises(ArtefactCorrupt):
        check_folder(folder, outcome.hashes)


@pytest.mark.parametrize("which", ["base", "adapter"])
@pytest.mark.parametrize("kept", [0, 3, 50, 0.5, 0.99])
def test_file_that_is_cut_short_is_told(tmp_path: Path, which: str, kept: float) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q8_0)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    path = base if which == "base" else adapter
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content) if 0 < kept < 1 else kept)])
    with pytest.raises(ArtefactCorrupt):
        merged(base, adapter, tmp_path / "work")
    assert left_in(tmp_path / "work") == []


@pytest.mark.parametrize("which", ["base", "adapter"])
def test_file_that_is_gone_is_told(tmp_path: Path, which: str) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q8_0)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    spec = spec_of(base, adapter, tmp_path / "work")
    (base if which == "base" else adapter).unlink()
    with pytest.raises(ArtefactCorrupt, match="missing"):
        merge(spec, on_progress=nothing, should_stop=never)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("width", [COLUMNS, 40])
def test_what_is_no_number_is_not_served(tmp_path: Path, value: float, width: int) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.F32, columns=width)
    a, b = pair(columns=width)
    b[3, 1] = value
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: (a, b)})
    with pytest.raises(ArtefactCorrupt, match="no number"):
        merged(base, adapter, tmp_path / "work")
    assert left_in(tmp_path / "work") == []


def test_merge_stops_where_it_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q8_0)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    seen: list[list[str]] = []

    def stop() -> bool:
        seen.append(left_in(tmp_path / "work"))
        return len(seen) > 3

    with pytest.raises(JobCancelled):
        merge(
            spec_of(base, adapter, tmp_path / "work"),
            on_progress=nothing,
            should_stop=stop,
        )
    assert len(seen) == 4 and seen[-1][0].startswith(PARTIAL)
    assert left_in(tmp_path / "work") == []


def test_progress_grows_to_the_end(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q8_0, other_rows=70_000)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    told: list[TrainingProgress] = []
    ticks = iter(range(10**6))
    merge(
        spec_of(base, adapter, tmp_path / "work"),
        on_progress=told.append,
        should_stop=never,
        clock=lambda: float(next(ticks)),
    )
    steps = [progress.step for progress in told]
    assert {progress.stage for progress in told} == {"converting"}
    assert len(told) > 3 and steps == sorted(steps)
    assert told[-1].step == told[-1].total_steps > 0
    assert told[-1].eta_seconds == 0


def test_two_merges_at_once_and_one_after_another_give_the_same_bytes(tmp_path: Path) -> None:
    """Two trainers share the base; an attempt that is made again replaces what was there."""
    base = write_base(tmp_path / "base.gguf", Kind.Q4_0)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    together = threading.Barrier(2, timeout=30)

    def run(name: str) -> MergeOutcome:
        together.wait()
        return merged(base, adapter, tmp_path / name)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(run, ("one", "two")))
    outcomes.append(merged(base, adapter, tmp_path / "one"))
    assert len({outcome.sha256 for outcome in outcomes}) == 1
    for outcome in outcomes:
        check_folder(outcome.path.parent, outcome.hashes)


def test_tensor_type_that_cannot_be_read_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q8_0)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    content = base.read_bytes()
    name = TARGET.encode()
    at = content.index(name) + len(name) + 4 + 16
    base.write_bytes(content[:at] + (250).to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises(AdapterUnsupported, match="type 250"):
        merged(base, adapter, tmp_path / "work")
    assert left_in(tmp_path / "work") == []
