"""Folders for sockets: short, private, and removed with their process."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.processes.sockets import SocketFolder

HOLD = """
import sys, threading
from pathlib import Path
from pipeline.processes.sockets import SocketFolder
print(SocketFolder(Path(sys.argv[1])).path, flush=True)
threading.Event().wait()
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a short path; pytest's own may be too long."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as folder:
        yield Path(folder)


def folders(parent: Path) -> set[Path]:
    return set(parent.glob("modelserver-sockets-*"))


def test_folder_is_private_and_removed_at_the_end(short_folder: Path) -> None:
    """Nobody else may connect."""
    made = SocketFolder(short_folder)
    assert made.path.stat().st_mode & 0o777 == 0o700
    (made.path / "a.sock").touch()
    made.close()
    assert not made.path.exists()


def test_temporary_folder_with_a_long_path_is_not_used(tmp_path: Path) -> None:
    """A socket's path has 107 bytes at most."""
    long = tmp_path / ("x" * 80)
    long.mkdir()
    made = SocketFolder(long)
    try:
        assert len(os.fsencode(made.path / f"{'f' * 16}.sock")) <= 107
        assert not folders(long)
    finally:
        made.close()


def test_folder_of_a_killed_process_is_removed_by_the_next(short_folder: Path) -> None:
    """One that lives keeps its own."""
    argv = (sys.executable, "-c", HOLD, str(short_folder))
    killed, alive = (subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2))
    try:
        assert killed.stdout is not None and alive.stdout is not None
        left, kept = Path(killed.stdout.readline()[:-1]), Path(alive.stdout.readline()[:-1])
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert folders(short_folder) == {left, kept}
        made = SocketFolder(short_folder)
        assert folders(short_folder) == {kept, made.path}
        made.close()
    finally:
        for each in (killed, alive):
            each.kill()
            each.communicate()
