"""The ledger's benchmarks run, with few records; their figures mean nothing here.

They use parts of the service by name, some behind a cast that hides a change from mypy, so only a
run shows that they still work.
"""

import json
import subprocess
import sys

import pytest

RUNS = {
    "ledger": ("--repeats", "1", "--records", "100"),
    "relay": ("--repeats", "1", "--jobs", "20"),
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", RUNS)
def test_benchmark_runs_and_prints_its_figures_alone(name: str) -> None:
    command = [sys.executable, "-m", f"bench.{name}", "--kafka", "embedded", "--json"]
    ended = subprocess.run([*command, *RUNS[name]], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    tables = [json.loads(line) for line in ended.stdout.splitlines()]
    assert tables
