"""The benchmark of many personas still runs on this host; its figures say nothing here."""

import json
import subprocess
import sys

import pytest

from tests.servers.model_hosts import FoundHost


@pytest.mark.timeout(900)
def test_benchmark_of_the_hosts_runs_and_prints_its_figures_alone(
    real_host: tuple[FoundHost, str],
) -> None:
    found, _ = real_host
    if found.address is not None:
        pytest.skip("the benchmark takes only hosts that it starts itself")
    kind = found.kind
    small = ("--base", "smollm2-135m-instruct", "--personas", "2", "--repeats", "1")
    ended = subprocess.run(
        [sys.executable, "-m", "bench.hosts", *small, "--hosts", kind.name, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    first_token, *throughput = [json.loads(line) for line in ended.stdout.splitlines()]
    (row,) = first_token["rows"].values()
    assert row["runs"] == 2 and row["min"] > 0
    assert len(throughput) == (1 if kind.form == "shared" else 0)
