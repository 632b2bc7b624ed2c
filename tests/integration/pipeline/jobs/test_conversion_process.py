"""A base model is converted in a process of its own, whose errors keep their codes."""

from pathlib import Path

import pytest

from pipeline.jobs import conversion_process
from pipeline.jobs.conversion_process import convert_base
from schemas.errors import ConfigurationError, FolderNotOurs, TrainingFailed


def test_base_that_is_not_there_is_told_as_the_converter_tells_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="MODELSERVER_MODEL_DIR"):
        convert_base(tmp_path / "none.gguf", tmp_path / "hf")


def test_folder_of_somebody_else_is_left_as_it_is(tmp_path: Path) -> None:
    base, theirs = tmp_path / "base.gguf", tmp_path / "hf" / "letter.txt"
    base.write_bytes(b"GGUF")
    theirs.parent.mkdir()
    theirs.write_text("dear all")
    with pytest.raises(FolderNotOurs):
        convert_base(base, theirs.parent)
    assert theirs.read_text() == "dear all"


def test_converter_that_ends_without_a_word_is_named_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion_process, "_CONVERTER", "no.such.module")
    with pytest.raises(TrainingFailed, match="exit code 1"):
        convert_base(tmp_path / "none.gguf", tmp_path / "hf")
