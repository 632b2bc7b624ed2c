"""A real host begins empty, in the pinned version, beside others, and ends with all it started."""

from pathlib import Path

import httpx
import psutil
import pytest

from pipeline.hosting.ollama_version import forms_of
from tests.servers.host_cache import OLLAMA_0_32, OLLAMA_0_34
from tests.servers.model_hosts import FoundHost, open_host


@pytest.fixture
def program(real_host: tuple[FoundHost, str]) -> FoundHost:
    """The host, where it is one that the tests start."""
    found, _ = real_host
    if found.program is None:
        pytest.skip("the host is used at its address, and not started here")
    return found


def test_version_tells_the_form_that_the_story_expects(real_host: tuple[FoundHost, str]) -> None:
    found, address = real_host
    version = httpx.get(f"{address}/api/version").json()["version"]
    forms = forms_of(version)
    assert forms is not None and forms[0] == found.kind.form


def test_ollama_of_the_cache_is_the_pinned_one(program: FoundHost, tmp_path: Path) -> None:
    pinned = {"ollama-0.32": OLLAMA_0_32, "ollama-0.34": OLLAMA_0_34}
    if program.kind.name not in pinned:
        pytest.skip("our own host role has a version of its own")
    with open_host(program, tmp_path) as address:
        told = httpx.get(f"{address}/api/version").json()["version"]
    assert told == pinned[program.kind.name]


def test_hosts_run_side_by_side_begin_empty_and_leave_nothing(
    program: FoundHost, tmp_path: Path
) -> None:
    before = {process.pid for process in psutil.process_iter()}
    with (
        open_host(program, tmp_path / "a") as first,
        open_host(program, tmp_path / "b") as second,
    ):
        assert first != second
        for address in (first, second):
            assert httpx.get(f"{address}/api/tags").json() == {"models": []}
    ours = str(tmp_path)
    left = [p for p in psutil.process_iter() if p.pid not in before and _knows(p, ours)]
    assert left == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(first)


def _knows(process: psutil.Process, folder: str) -> bool:
    """Say whether a live process was given a folder of this test, by its environment."""
    try:
        is_alive = process.status() != psutil.STATUS_ZOMBIE
        return is_alive and any(folder in value for value in process.environ().values())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
