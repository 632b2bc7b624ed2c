"""`make test-hosts`: the contract suites and the story on each real model host that is there.

    python -m tests.hosts [--host NAME] [-- PYTEST ARGUMENTS]

Each host is started anew for its run. The exit code is 0 only if every run passed and there was
at least one.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.repository import REPOSITORY
from tests.servers.model_hosts import HOSTS, find_host

SUITES = (
    "tests/contract/pipeline/hosting/test_ollama_contract.py",
    "tests/contract/pipeline/hosting/test_ollama_create.py",
    "tests/contract/pipeline/hosting/test_ollama_answers.py",
    "tests/contract/pipeline/hosting/test_ollama_memory.py",
    "tests/contract/pipeline/hosting/test_ollama_personas.py",
    "tests/contract/pipeline/hosting/test_model_host_creation.py",
    "tests/contract/pipeline/hosting/test_model_host_names.py",
    "tests/contract/pipeline/hosting/test_model_host_answers.py",
    "tests/contract/pipeline/hosting/test_chat_template_contract.py",
    "tests/hosts",
)
# The runner of our own host role, on the program that it starts.
OWN_SUITES = {"llama-server": ("tests/contract/pipeline/hosting/test_runner_contract.py",)}


@dataclass(frozen=True)
class Run:
    """What came of a host; `exit_code` is pytest's, and None where there is no such host."""

    title: str
    exit_code: int | None
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.exit_code is None:
            return f"SKIPPED {self.title}: call `make hosts` once, or name one (CONTRIBUTING.md)"
        verdict = "passed" if self.exit_code == 0 else f"FAILED (pytest's code {self.exit_code})"
        return f"{self.title}: {verdict}, {self.seconds:.0f} s"


def main() -> int:
    """Try each host in turn and sum up."""
    parser = argparse.ArgumentParser(prog="python -m tests.hosts", description=__doc__)
    parser.add_argument("--host", action="append", choices=tuple(HOSTS), help="default: all")
    parser.add_argument("arguments", nargs="*", help="for pytest, after --")
    options = parser.parse_args()
    runs = [try_host(name, options.arguments) for name in options.host or HOSTS]
    print("\n== real model hosts", *map(str, runs), sep="\n")
    return exit_code(runs)


def try_host(name: str, arguments: Sequence[str]) -> Run:
    """Run all suites on one host, in a pytest of its own."""
    title = HOSTS[name].title
    if find_host(name) is None:
        return Run(title, None)
    print(f"== {title}", flush=True)
    begun = time.monotonic()
    suites = (*SUITES, *OWN_SUITES.get(name, ()))
    command = [sys.executable, "-m", "pytest", "-q", "--model-host", name, *suites, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, check=False)
    return Run(title, done.returncode, time.monotonic() - begun)


def exit_code(runs: Sequence[Run]) -> int:
    """0 only if at least one host was tried and none failed."""
    tried = [run.exit_code for run in runs if run.exit_code is not None]
    return 0 if tried and not any(tried) else 1


if __name__ == "__main__":
    sys.exit(main())
