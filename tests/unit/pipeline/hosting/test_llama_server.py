"""The llama-server program: found, executable, recent enough."""

from pathlib import Path

import pytest

from pipeline.hosting.llama_server import find_llama_server
from schemas.errors import ConfigurationError


def program(folder: Path, text: str, mode: int = 0o755) -> str:
    path = folder / "llama-server"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("echo --lora-init-without-apply", 0o755, "does not know --no-kv-unified"),
        ("exit 3", 0o755, "cannot be run"),
        ("kill -ILL $$", 0o755, "cannot be run"),
        ("true", 0o644, "is no program"),
    ],
    ids=["too old", "fails", "illegal instruction", "not executable"],
)
def test_program_that_will_not_do_is_named_with_what_to_do(
    tmp_path: Path, text: str, mode: int, says: str
) -> None:
    """Before anything is served."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        find_llama_server(program(tmp_path, text, mode))
    assert "MODELSERVER_HOST__COMMAND" in caught.value.message


def test_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    """By path and by name."""
    for command in (str(tmp_path / "none"), "no-such-program-at-all"):
        with pytest.raises(ConfigurationError, match="is no program"):
            find_llama_server(command)
