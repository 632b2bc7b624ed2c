"""The real model hosts of the tests: found, started on a free port, and stopped.

A host is one that a variable names by its address (`OLLAMA_0_34_HOST`) or by its program
(`OLLAMA_0_34_BIN`), else the one in the cache of `make hosts`. One named by an address is used as
it is; every other gets a folder of its own, so it begins without a model.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from embedded.process import ServerProcess, free_port, is_port_listened_on_by
from schemas.hosting import Form
from tests.repository import REPOSITORY
from tests.servers import host_cache
from tests.servers.host_cache import LLAMA_VERSION, OLLAMA_0_32, OLLAMA_0_34

_ANSWER_LIMIT_S = 2.0
_START_LIMIT_S = 120.0
_STOP_LIMIT_S = 60.0


@dataclass(frozen=True)
class HostKindUnderTest:
    """A kind of host, and the form of a persona that it is to be given."""

    name: str
    title: str
    variable: str
    """What the names of its variables begin with."""
    form: Form


@dataclass(frozen=True)
class FoundHost:
    """A host that can be used: at an address, or to be started from a program."""

    kind: HostKindUnderTest
    address: str | None
    program: Path | None


HOSTS = {
    kind.name: kind
    for kind in (
        HostKindUnderTest("ollama-0.32", f"Ollama {OLLAMA_0_32}", "OLLAMA_0_32", "adapter"),
        HostKindUnderTest("ollama-0.34", f"Ollama {OLLAMA_0_34}", "OLLAMA_0_34", "merged"),
        HostKindUnderTest(
            "llama-server", f"llama-server {LLAMA_VERSION}", "LLAMA_SERVER", "shared"
        ),
    )
}


def find_host(name: str, environ: Mapping[str, str] | None = None) -> FoundHost | None:
    """Find a host by its variables, else in the cache; None where it is nowhere.

    Raises:
        FileNotFoundError: a variable names a program that is not there. Looked for elsewhere,
            another one than that which is meant would be tried.
    """
    variables = os.environ if environ is None else environ
    kind = HOSTS[name]
    if address := variables.get(f"{kind.variable}_HOST"):
        return FoundHost(kind, _with_scheme(address), None)
    if path := variables.get(f"{kind.variable}_BIN"):
        return FoundHost(kind, None, _named_program(path, f"{kind.variable}_BIN"))
    program = _cached_program(name, host_cache.hosts_folder())
    return None if program is None else FoundHost(kind, None, program)


def find_quantizer(environ: Mapping[str, str] | None = None) -> Path | None:
    """Find llama.cpp's `llama-quantize` by LLAMA_QUANTIZE_BIN, else in the cache."""
    variables = os.environ if environ is None else environ
    if path := variables.get("LLAMA_QUANTIZE_BIN"):
        return _named_program(path, "LLAMA_QUANTIZE_BIN")
    programs = host_cache.llama_programs(host_cache.llama_home(host_cache.hosts_folder()))
    return None if programs is None else programs / "llama-quantize"


def find_converter(environ: Mapping[str, str] | None = None) -> Path | None:
    """Find llama.cpp's `convert_lora_to_gguf.py` in LLAMA_CPP_SOURCE, else in the cache."""
    variables = os.environ if environ is None else environ
    scripts = host_cache.llama_scripts(host_cache.hosts_folder())
    path = Path(variables.get("LLAMA_CPP_SOURCE") or scripts) / host_cache.CONVERTER
    return path if path.is_file() else None


def find_llama_server(environ: Mapping[str, str] | None = None) -> Path | None:
    """Find the program `llama-server` itself, by LLAMA_SERVER_BIN, else in the cache."""
    found = find_host("llama-server", environ)
    return None if found is None else found.program


def missing_hosts(environ: Mapping[str, str] | None = None) -> list[str]:
    """Name the hosts that are neither named by a variable nor in the cache."""
    return [kind.title for kind in HOSTS.values() if find_host(kind.name, environ) is None]


@contextmanager
def open_host(
    host: FoundHost, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Give the address of a host that answers; one that is started here is stopped again.

    `environment` adds to that of the process, as `OLLAMA_MAX_LOADED_MODELS`; it has no effect on
    a host that is used at its address.
    """
    if host.address is not None:
        yield host.address
        return
    port = free_port()
    with host_process(host, folder, port, environment or {}):
        yield f"http://127.0.0.1:{port}"


def host_process(
    host: FoundHost, folder: Path, port: int, environment: Mapping[str, str]
) -> ServerProcess:
    """Prepare the process of a host; `environment` goes over its own settings."""
    assert host.program is not None
    is_role = host.kind.name == "llama-server"
    command = (
        [sys.executable, "-m", "cli.main", "run", "host"]
        if is_role
        else [str(host.program), "serve"]
    )
    own = _role_settings(host.program, folder, port) if is_role else _ollama_settings(folder, port)
    return ServerProcess(
        host.kind.title,
        command,
        log_path=folder / "logs" / f"{host.kind.name}.log",
        is_ready=lambda pid: is_port_listened_on_by(pid, port) and _answers(port),
        environment=_without_hosts() | own | dict(environment),
        start_limit_s=_START_LIMIT_S,
        stop_limit_s=_STOP_LIMIT_S,
    )


def _ollama_settings(folder: Path, port: int) -> dict[str, str]:
    return {
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(folder / "models"),
        # Where it keeps its key: two that start at once would write the same one.
        "HOME": str(folder),
    }


def _role_settings(program: Path, folder: Path, port: int) -> dict[str, str]:
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(REPOSITORY), os.getenv("PYTHONPATH")))),
        "MODELSERVER_HOST__KIND": "llama-server",
        "MODELSERVER_HOST__COMMAND": str(program),
        "MODELSERVER_HOST__PORT": str(port),
        "MODELSERVER_OPS__PORT": str(free_port()),
        "MODELSERVER_DATA_DIR": str(folder / "data"),
    }


def _without_hosts() -> dict[str, str]:
    """The environment without what would turn a host, or the role, to another one."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OLLAMA_", "MODELSERVER_"))
    }


def _answers(port: int) -> bool:
    try:
        # No proxy of the environment may come between us and our own machine.
        url = f"http://127.0.0.1:{port}/api/version"
        return httpx.get(url, timeout=_ANSWER_LIMIT_S, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _cached_program(name: str, root: Path) -> Path | None:
    versions = {"ollama-0.32": OLLAMA_0_32, "ollama-0.34": OLLAMA_0_34}
    if version := versions.get(name):
        is_there = host_cache.has_ollama(root, version)
        return (
            host_cache.ollama_program(host_cache.ollama_home(root, version)) if is_there else None
        )
    programs = host_cache.llama_programs(host_cache.llama_home(root))
    return None if programs is None else programs / "llama-server"


def _named_program(path: str, variable: str) -> Path:
    program = Path(path).expanduser().resolve()
    if not (program.is_file() and os.access(program, os.X_OK)):
        raise FileNotFoundError(f"{variable} names {path}, which is no program")
    return program


def _with_scheme(address: str) -> str:
    return address if "://" in address else f"http://{address}"
