"""Files that are damaged, do not fit or cannot be read are refused, and nothing is left behind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from pipeline.storage.files import MANIFEST, check_folder, hash_file
from pipeline.training.merging.merge import merge
from schemas.errors import (
    AdapterMismatch,
    AdapterUnsupported,
    ArtefactCorrupt,
)
from schemas.hosting import MERGED_FOLDER, MERGED_GGUF
from tests.models.tiny_gguf import (
    COLUMNS,
    ROWS,
    TARGET,
    change_a_bit,
    pair,
    write_adapter,
    write_base,
)
from tests.unit.pipeline.training.merging.merges import left_in, merged, never, nothing, spec_of


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
def test_truncated_file_is_refused(tmp_path: Path, which: str, kept: float) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q8_0)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    path = base if which == "base" else adapter
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content) if 0 < kept < 1 else kept)])
    with pytest.raises(ArtefactCorrupt):
        merged(base, adapter, tmp_path / "work")
    assert left_in(tmp_path / "work") == []


@pytest.mark.parametrize("which", ["base", "adapter"])
def test_missing_file_is_refused(tmp_path: Path, which: str) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.Q8_0)
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: pair()})
    spec = spec_of(base, adapter, tmp_path / "work")
    (base if which == "base" else adapter).unlink()
    with pytest.raises(ArtefactCorrupt, match="missing"):
        merge(spec, on_progress=nothing, should_stop=never)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("width", [COLUMNS, 40])
def test_infinities_and_nan_are_refused(tmp_path: Path, value: float, width: int) -> None:
    base = write_base(tmp_path / "base.gguf", Kind.F32, columns=width)
    a, b = pair(columns=width)
    b[3, 1] = value
    adapter = write_adapter(tmp_path / "adapter.gguf", {TARGET: (a, b)})
    with pytest.raises(ArtefactCorrupt, match="no number"):
        merged(base, adapter, tmp_path / "work")
    assert left_in(tmp_path / "work") == []


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
