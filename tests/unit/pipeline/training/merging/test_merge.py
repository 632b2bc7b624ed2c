"""A merge: which tensors it changes, what it copies, and how it reports progress."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from pipeline.storage.files import PARTIAL, check_folder
from pipeline.training.merging.merge import merge
from schemas.errors import (
    AdapterUnsupported,
    JobCancelled,
)
from schemas.hosting import MergeOutcome
from schemas.training import TrainingProgress
from tests.models.tiny_gguf import (
    ALPHA,
    COLUMNS,
    RANK,
    ROWS,
    TARGET,
    embedding_pair,
    pair,
    write_adapter,
    write_base,
)
from tests.unit.pipeline.training.merging.merges import left_in, merged, never, nothing, spec_of

KINDS = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0]
# The gguf package can read these but not write them: tests use random blocks with finite scales.
READ_ONLY_KINDS = [Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.IQ4_XS]


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
    # Sums in another order may round to the neighbouring step of Q8_0.
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
    """Ollama prefers a template with tools inside the file to the one that it is given."""
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
def test_file_type_is_q8_0_where_most_weights_are(
    tmp_path: Path, other_rows: int, said: int
) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q4_0, other_rows=other_rows)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    outcome = merged(base, adapter, tmp_path / "work")
    assert gguf.GGUFReader(outcome.path).fields["general.file_type"].contents() == said


@pytest.mark.parametrize("alignment", [32, 128])
@pytest.mark.parametrize("width", [40, 24])
def test_rows_that_are_not_a_multiple_of_32_become_f16(
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
    """llama.cpp does the same."""
    base = write_base(tmp_path / "base.gguf", Kind.F32)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()}, alpha=0.0)
    outcome = merged(base, adapter, tmp_path / "work")
    before = {t.name: t.data for t in gguf.GGUFReader(base).tensors}
    after = {t.name: t.data for t in gguf.GGUFReader(outcome.path).tensors}
    a, b = (side.astype(np.float32) for side in pair())
    expected = before[TARGET] + b @ a
    found = gguf.quants.dequantize(after[TARGET], Kind.Q8_0)
    np.testing.assert_allclose(found, expected, atol=np.abs(expected).max() / 127)


def test_adapter_of_a_separate_embedding_is_merged_row_by_token(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.F32, has_output=True)
    adapter = write_adapter(tmp_path / "adapter.gguf", {"token_embd.weight": embedding_pair()})
    outcome = merged(base, adapter, tmp_path / "work")
    before = {t.name: t.data for t in gguf.GGUFReader(base).tensors}
    after = {t.name: t.data for t in gguf.GGUFReader(outcome.path).tensors}
    a, b = (side.astype(np.float32) for side in embedding_pair())
    expected = before["token_embd.weight"] + (a * np.float32(ALPHA / RANK)) @ b.T
    found = gguf.quants.dequantize(after["token_embd.weight"], Kind.Q8_0)
    np.testing.assert_allclose(found, expected, atol=np.abs(expected).max() / 127)


def test_adapter_of_an_embedding_tied_to_the_output_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.F32)
    adapter = write_adapter(tmp_path / "adapter.gguf", {"token_embd.weight": embedding_pair()})
    with pytest.raises(AdapterUnsupported, match="output layer"):
        merged(base, adapter, tmp_path / "work")
    assert left_in(tmp_path / "work") == []


def test_cancelled_merge_leaves_nothing(tmp_path: Path) -> None:
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
    """Two trainers may share a base, and a repeated merge replaces its earlier result."""
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
