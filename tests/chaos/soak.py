"""The soak: mixed traffic for an hour, a fault a minute, and what the service uses meanwhile.

`python -m tests.chaos.soak --minutes 60 --plot docs/soak.png`. Member one is measured and never
killed; member two is killed in every second minute. At the end its memory, files and threads are
compared with those after the first sixth of the time (ten minutes of an hour).
"""

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from schemas.base import Frozen
from tests.chaos.faults import FAULTS, NONE, Fault
from tests.chaos.result import RunResult
from tests.chaos.session import Session
from tests.chaos.world import KafkaKind, World
from tests.servers.apache_kafka import missing_tools

_SAMPLE_S = 5.0
_MINUTE_S = 60.0
_MEMBER_STAYS = frozenset({"refuse", "disk_full", "out_of_memory", "damage", None})
_TOLERANCE = 0.05


class Sample(Frozen):
    """The resources of member one at a moment; memory in MiB."""

    minute: float
    service_mib: float
    child_mib: float
    files: int
    threads: int


class Sampler:
    """Measures a process and its training child every few seconds while the context is open."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.samples: list[Sample] = []

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            with suppress(psutil.NoSuchProcess):  # `main` reports that it died.
                self.samples.append(self._measure())

    def _measure(self) -> Sample:
        children = self._process.children()
        return Sample(
            minute=(time.monotonic() - self._began) / _MINUTE_S,
            service_mib=_mib(self._process),
            child_mib=max((_mib(child) for child in children), default=0.0),
            files=self._process.num_fds(),
            threads=self._process.num_threads(),
        )


def main() -> int:
    """Soak; the exit code is 0 only if nothing grew and every run is without fault."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    kafka: KafkaKind = "embedded" if missing_tools() else "apache"
    possible = [
        f for f in FAULTS if leaves_members_alive(f) and (kafka == "apache" or not f.needs_apache)
    ]
    with World(folder, kafka) as world, Session(world, "soak", "classic") as session:
        session.run(NONE, options.seed)  # A first run loads everything that stays in memory.
        measured = session.pids[0]
        with Sampler(measured) as sampler:
            results = soak(session, possible, options.minutes, options.seed)
        faults = [f"{r.fault}: {sentence}" for r in results for sentence in r.verdict.faults]
        if session.pids[0] != measured:
            faults.append("member one died")
    grown = report(sampler.samples, results, options.minutes)
    for sentence in faults:
        print(f"FAULT {sentence}")
    if options.plot:
        plot(sampler.samples, options.plot)
    if faults:
        print(f"The folder of the runs is kept: {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if faults or grown else 0


def leaves_members_alive(fault: Fault) -> bool:
    """Say whether member one survives the fault, so that it can be measured throughout."""
    return fault != NONE and fault.action in _MEMBER_STAYS and fault.around != "killed"


def soak(session: Session, possible: Sequence[Fault], minutes: float, seed: int) -> list[RunResult]:
    """Play runs without a pause; the first run of each minute has a fault."""
    chance = random.Random(seed)
    results: list[RunResult] = []
    began = time.monotonic()
    minute = 0
    while time.monotonic() - began < minutes * _MINUTE_S:
        fault = NONE
        if time.monotonic() - began >= minute * _MINUTE_S:
            minute += 1
            fault = chance.choice(possible)
            if minute % 2 == 0:
                session.kill(1)
        results.append(session.run(fault, seed + 1 + len(results)))
        for sentence in results[-1].verdict.faults:
            print(f"minute {minute}, {fault.name}: {sentence}", flush=True)
    return results


def report(samples: list[Sample], results: list[RunResult], minutes: float) -> list[str]:
    """Print the table and return the names of what grew by more than 5 %."""
    early = [s for s in samples if minutes / 6 <= s.minute < minutes / 6 + minutes / 12]
    late = [s for s in samples if s.minute >= minutes - minutes / 12]
    struck = sum(result.struck > 0 for result in results)
    print(f"{minutes:g} minutes, {len(results)} runs, {struck} with a fault\n")
    print("| member one | early | at the end | change |\n| --- | --- | --- | --- |")
    grown = []
    for name, unit in (
        ("service_mib", "MiB"),
        ("child_mib", "MiB"),
        ("files", ""),
        ("threads", ""),
    ):
        before = statistics.median(getattr(s, name) for s in early)
        after = statistics.median(getattr(s, name) for s in late)
        change = after / before - 1
        print(f"| {name} | {before:.0f} {unit} | {after:.0f} {unit} | {change:+.1%} |")
        if change > _TOLERANCE:
            grown.append(name)
    return grown


def plot(samples: list[Sample], path: Path) -> None:
    """Draw memory, files and threads over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    minutes = [s.minute for s in samples]
    figure, (memory, counts) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 5))
    memory.plot(minutes, [s.service_mib for s in samples], label="service")
    memory.plot(minutes, [s.child_mib for s in samples], label="training child")
    memory.set_ylabel("resident memory, MiB")
    counts.plot(minutes, [s.files for s in samples], label="open files")
    counts.plot(minutes, [s.threads for s in samples], label="threads")
    counts.set_xlabel("minutes")
    for axes in (memory, counts):
        axes.set_ylim(bottom=0)
        axes.legend()
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _mib(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1_000_000)
    parser.add_argument("--plot", type=Path, help="a PNG file (needs matplotlib)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
