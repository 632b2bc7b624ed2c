"""A full or failing disk: every writer reports it, and nothing half-written is used."""

import errno
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import LlamaConfig

from config.training import load_training_config
from pipeline.dataset.dataset import JSONLBuilder
from pipeline.hosting.server.errors import Refusal
from pipeline.hosting.server.models.store import Store
from pipeline.storage.disk_errors import disk_errors
from pipeline.storage.files import hash_file, write_file
from pipeline.storage.folders import check_folder
from pipeline.storage.manifests import MANIFEST
from pipeline.text.system_prompt import SystemPromptGenerator
from pipeline.training.adapter_export import export_gguf, save_peft
from pipeline.training.checkpoint import Position, load_newest, save
from pipeline.training.merging.merge import merge
from pipeline.weights.merge_plan import check_disk_space, plan_merge
from schemas.errors import ArtefactCorrupt, DiskFull, DiskUnavailable
from schemas.hosting import MERGED_FOLDER, MergeSpec
from schemas.training import ADAPTER_GGUF, ADAPTER_WEIGHTS
from tests.fakes.answers import ListedAnswers
from tests.integration.pipeline.training.test_adapter_export import adapted
from tests.models.tiny_families import TINY_SIZES
from tests.models.tiny_gguf import TARGET, pair, write_adapter, write_base

# peft uses a name that transformers deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

RUN = "a" * 64


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; the test is skipped where it may not be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)),
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(("umount", str(folder)), check=True)


def checkpoint(folder: Path, step: int, numbers: int) -> None:
    save(folder, Position(identity=RUN, step=step, loss=0.5), {"w": torch.zeros(numbers)})


def test_checkpoint_that_finds_no_space_leaves_the_one_before(small_disk: Path) -> None:
    """safetensors raises an exception of its own."""
    checkpoint(small_disk, 1, 10)
    with pytest.raises(DiskFull):
        checkpoint(small_disk, 2, 100_000)
    found = load_newest([small_disk], RUN, small_disk)
    assert found is not None and found[0].step == 1
    assert len(list(small_disk.iterdir())) == 1


def test_small_file_that_finds_no_space_leaves_nothing(small_disk: Path) -> None:
    with pytest.raises(DiskFull):
        write_file(small_disk / "file", bytes(100_000))
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("left", range(0, 20_000, 4096))
def test_gguf_that_finds_no_space_is_whole_or_not_there(small_disk: Path, left: int) -> None:
    """Wherever the disk becomes full; NumPy reports it in a text of its own, or not at all."""
    config = LlamaConfig(**TINY_SIZES)
    save_peft(adapted(config), small_disk)
    manifest = (small_disk / MANIFEST).read_bytes()
    free = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_bsize - left))
    try:
        export_gguf(small_disk, config)
    except (DiskFull, ArtefactCorrupt):
        assert (small_disk / MANIFEST).read_bytes() == manifest
    if (small_disk / ADAPTER_GGUF).exists():  # Then at most the manifest did not fit.
        assert len(gguf.GGUFReader(small_disk / ADAPTER_GGUF).tensors) == 28
    assert not list(small_disk.glob(".partial-*"))


def merge_spec(folder: Path, work_dir: Path) -> MergeSpec:
    base = write_base(folder / "base.gguf", Kind.Q4_0, columns=64)
    adapter = write_adapter(folder / "adapter.gguf", {TARGET: pair(columns=64)})
    return MergeSpec(
        job_id="ANN_1",
        elder_id="ANN",
        fence=1,
        base_gguf=base,
        adapter_gguf=adapter,
        adapter_sha256=hash_file(adapter),
        quantization="q8_0",
        work_dir=work_dir,
    )


def test_quantiser_that_finds_no_space_is_waited_for(small_disk: Path, tmp_path: Path) -> None:
    """It ends as after any other error; only the free space tells that the disk is full."""
    quantizer = tmp_path / "llama-quantize"
    quantizer.write_text('#!/bin/sh\nexec cp "$2" "$3"\n')
    quantizer.chmod(0o755)
    spec = merge_spec(tmp_path, small_disk).model_copy(
        update={"quantization": "q4_k_m", "quantizer": quantizer}
    )
    with pytest.raises(DiskFull):
        check_disk_space(plan_merge(spec.base_gguf, "q4_k_m"), small_disk)
    with pytest.raises(DiskFull):
        merge(spec, on_progress=lambda _: None, should_stop=lambda: False)
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("left", range(0, 65_536, 8192))
def test_merge_that_finds_no_space_is_whole_or_not_there(
    small_disk: Path, tmp_path: Path, left: int
) -> None:
    """It needs some 40 KiB. A full disk is detected before the merge, and also while it writes."""
    spec = merge_spec(tmp_path, small_disk)
    plan, free = plan_merge(spec.base_gguf, "q8_0"), os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_bsize - left))
    if left < plan.disk_bytes:
        with pytest.raises(DiskFull, match="GiB free"):
            check_disk_space(plan, small_disk)
        with pytest.raises(DiskFull):
            merge(spec, on_progress=lambda _: None, should_stop=lambda: False)
        assert [path.name for path in small_disk.iterdir()] == ["ballast"]
        return
    check_disk_space(plan, small_disk)
    try:
        outcome = merge(spec, on_progress=lambda _: None, should_stop=lambda: False)
    except DiskFull:  # The manifest did not fit.
        assert [path.name for path in small_disk.iterdir()] == ["ballast"]
    else:
        check_folder(small_disk / MERGED_FOLDER, outcome.hashes)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def change(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("damage", [cut, change])
def test_gguf_that_a_writer_left_short_without_a_word_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    """Like NumPy when the last few bytes do not fit."""

    class Careless(gguf.GGUFWriter):  # type: ignore[misc]  # gguf has no types
        def write_header_to_file(self, path: Path | None = None) -> None:
            assert path is not None
            self.left = path
            super().write_header_to_file(path)

        def close(self) -> None:
            super().close()
            damage(self.left)

    monkeypatch.setattr(gguf, "GGUFWriter", Careless)
    config = LlamaConfig(**TINY_SIZES)
    save_peft(adapted(config), tmp_path)
    with pytest.raises(ArtefactCorrupt):
        export_gguf(tmp_path, config)
    assert not (tmp_path / ADAPTER_GGUF).exists()


def test_weights_changed_before_the_conversion_are_not_converted(tmp_path: Path) -> None:
    config, folder = LlamaConfig(**TINY_SIZES), tmp_path / "adapter"
    save_peft(adapted(config), folder)
    change(folder / ADAPTER_WEIGHTS)
    with pytest.raises(ArtefactCorrupt):
        export_gguf(folder, config)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.corrupt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_quota_counts_as_full(number: int) -> None:
    with pytest.raises(DiskFull), disk_errors():
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE])
def test_failing_disk_is_waited_for(number: int) -> None:
    """A read-only mount must not turn each event into a dead letter."""
    with pytest.raises(DiskUnavailable, match=errno.errorcode[number]) as caught, disk_errors():
        raise OSError(number, os.strerror(number))
    assert not isinstance(caught.value, DiskFull)


def test_disk_that_went_read_only_is_waited_for(small_disk: Path) -> None:
    subprocess.run(("mount", "-o", "remount,ro", str(small_disk)), check=True)
    with pytest.raises(DiskUnavailable, match="EROFS"):
        write_file(small_disk / "file", b"x")
    builder = JSONLBuilder(
        ListedAnswers({}),
        small_disk / "jsonl",
        SystemPromptGenerator(load_training_config().prompt_template),
        memories=2,
        max_seq_length=512,
    )
    with pytest.raises(DiskUnavailable, match="EROFS"), builder:
        pytest.fail("there is no folder to write to")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOENT, "no file"),
        # One elder's folder may belong to another user: the other elders must not wait for it.
        OSError(errno.EACCES, "not ours"),
        ValueError("(os error 28)"),
    ],
)
def test_other_errors_go_through(error: Exception) -> None:
    with pytest.raises(type(error)), disk_errors():
        raise error


def test_upload_to_a_host_that_finds_no_space_leaves_nothing(small_disk: Path) -> None:
    """The client is told why, and the space is free again."""
    store = Store(small_disk)
    content = bytes(200_000)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    refused = pytest.raises(Refusal, match="no space left on device")
    with refused as caught, store.upload(digest) as upload:
        upload.write(content)
        upload.finish()
    assert caught.value.status == 500
    assert list((small_disk / "blobs").iterdir()) == []
    store.close()
