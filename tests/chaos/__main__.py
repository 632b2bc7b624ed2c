"""The fault campaign: `python -m tests.chaos --runs 40 --seed 1`.

Each run has a seed of its own, printed; `--only SEED` plays that run again.
"""

import argparse
import itertools
import math
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tests.chaos.faults import AGAIN, FAULTS, NONE, Fault
from tests.chaos.run import RunResult, Session
from tests.chaos.world import KafkaKind, World
from tests.servers.apache_kafka import missing_tools

console = Console(stderr=True)
# A point may lie beyond what a single run passes.
_OFTEN = 3
_STEP = 37


def main() -> int:
    """Run a campaign; the exit code is 0 only if every run is without fault."""
    options = _options()
    kafka: KafkaKind = "embedded" if missing_tools() else "apache"
    if options.kafka is not None:
        kafka = options.kafka
    if kafka == "embedded" and options.group_protocol == "consumer":
        sys.exit("--group-protocol consumer needs Apache Kafka (Java 17 and Maven)")
    first = options.seed * 10_000
    seeds = [options.only] if options.only else list(range(first, first + options.runs))
    possible = [f for f in FAULTS if kafka == "apache" or not f.needs_apache]
    named = [f for f in possible if options.fault == f.name]
    chosen = named or [f for f in possible if options.fault in f.name]
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    results: list[RunResult] = []
    deadline = time.monotonic() + 60 * options.minutes
    broken_off = threading.Event()

    def go_on() -> bool:
        faults = sum(bool(result.verdict.faults) for result in results)
        is_time = time.monotonic() < deadline and not broken_off.is_set()
        return is_time and faults < int(options.stop_after)

    with World(folder, kafka) as world, Progress(console=console, disable=options.quiet) as bars:
        console.print(f"Seed {options.seed}, runs {seeds[0]} to {seeds[-1]}")
        bar = bars.add_task(f"Faults ({kafka})", total=len(seeds))

        def note(result: RunResult) -> None:
            results.append(result)
            bars.advance(bar)
            _tell(result, options.group_protocol)

        def play(lane: int) -> None:
            mine = seeds[lane :: options.parallel]
            try:
                _play(world, f"s{lane}", options.group_protocol, mine, chosen, note, go_on)
            except BaseException:
                broken_off.set()
                raise

        with ThreadPoolExecutor(options.parallel) as pool:
            lanes = [pool.submit(play, lane) for lane in range(options.parallel)]
            try:
                wait(lanes)
            except KeyboardInterrupt:
                broken_off.set()
                console.print("Broken off: the runs under way are played to their end")
    played = sum(result.fault != AGAIN.name for result in results)
    skipped = [fault for fault in FAULTS if fault not in possible]
    print(table(results, kafka, options.group_protocol))
    is_clean = _tell_all(results, len(seeds) - played, skipped)
    if is_clean:
        shutil.rmtree(folder)
    else:
        print(f"\nThe folder of the runs is kept: {folder}", file=sys.stderr)
    for lane in lanes:
        lane.result()  # Raises what ended it.
    cut_short = broken_off.is_set() or played < options.at_least
    return 0 if is_clean and not cut_short else 1


def _tell_all(results: list[RunResult], unplayed: int, skipped: list[Fault]) -> bool:
    """Tell below the table what it does not show; False where a run, or a fault, was not as due."""
    failed = [result for result in results if result.verdict.faults]
    for result in failed:
        for sentence in result.verdict.faults:
            print(f"\nFAULT {result.seed}, {result.fault}: {sentence}", file=sys.stderr)
    if unplayed:
        print(f"\nNOT PLAYED: {unplayed} of the runs that were due", file=sys.stderr)
    for fault in skipped:
        print(f"SKIPPED {fault.name}: needs Apache Kafka (Java 17, Maven)", file=sys.stderr)
    never = never_struck(results)
    for name in never:
        print(f"\nNever struck, so nothing was tried: {name}", file=sys.stderr)
    return not failed and not never


def _play(
    world: World,
    name: str,
    protocol: str,
    seeds: list[int],
    faults: list[Fault],
    note: Callable[[RunResult], None],
    go_on: Callable[[], bool],
) -> None:
    """Play runs one after the other; after one with a fault, with new members and topics."""
    waiting = list(seeds)
    number = 0
    while waiting and go_on():
        with Session(world, f"{name}x{number}", protocol) as session:
            number += 1
            while waiting and go_on():
                seed = waiting.pop(0)
                result = session.run(fault_of(seed, faults), seed)
                note(result)
                if result.verdict.faults:
                    break
            else:
                note(session.look_again())


def fault_of(seed: int, faults: list[Fault]) -> Fault:
    """Take the faults in turn, so that a campaign has as many of each; a short one has all kinds.

    Neighbours are alike, so each is followed by one far away.
    """
    step = next(n for n in itertools.count(_STEP) if math.gcd(n, len(faults)) == 1)
    return faults[seed * step % len(faults)]


def never_struck(results: list[RunResult]) -> list[str]:
    """Name the faults that were due several times and struck in no run."""
    runs = Counter(r.fault for r in results if r.fault not in (NONE.name, AGAIN.name))
    struck = {r.fault for r in results if r.struck}
    return [name for name, number in runs.items() if number >= _OFTEN and name not in struck]


def table(results: list[RunResult], kafka: str, protocol: str) -> str:
    """Write the campaign as a Markdown table, a line for each fault."""
    by_fault: dict[str, list[RunResult]] = defaultdict(list)
    for result in results:
        by_fault[result.fault].append(result)
    lines = [
        f"Kafka: {kafka}; group protocol: {protocol}; "
        f"{sum(r.fault != AGAIN.name for r in results)} runs",
        "",
        "| fault | runs | struck | restarts | lost | doubled | mixed up | other | longest, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for fault in (f.name for f in (*FAULTS, AGAIN) if f.name in by_fault):
        runs = by_fault[fault]
        lines.append(
            f"| {fault} | {len(runs)} | {sum(r.struck > 0 for r in runs)} "
            f"| {sum(r.restarts for r in runs)} | {sum(len(r.verdict.lost) for r in runs)} "
            f"| {sum(len(r.verdict.doubled) for r in runs)} "
            f"| {sum(len(r.verdict.mixed) for r in runs)} "
            f"| {sum(len(r.verdict.other) for r in runs)} | {max(r.seconds for r in runs):.0f} |"
        )
    return "\n".join(lines)


def _tell(result: RunResult, protocol: str) -> None:
    if not result.verdict.faults:
        return
    again = f'--only {result.seed} --fault "{result.fault}" --group-protocol {protocol}'
    console.print(f"[red]FAULT[/] {again}", soft_wrap=True)
    for sentence in result.verdict.faults:
        console.print(f"    {sentence}", markup=False)
    for line in result.last_words:
        console.print(f"      | {line}", markup=False, soft_wrap=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=len(FAULTS), help="how many (default: a round)")
    parser.add_argument("--seed", type=int, default=1, help="of the campaign")
    parser.add_argument("--only", type=int, help="play one run again, by its own seed")
    parser.add_argument(
        "--fault", default="", help="only the fault of this name, or those whose name contains it"
    )
    parser.add_argument("--kafka", choices=("embedded", "apache"), help="default: what is there")
    parser.add_argument("--group-protocol", choices=("classic", "consumer"), default="classic")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no run after this; default: no end"
    )
    parser.add_argument(
        "--stop-after", type=int, default=3, metavar="FAULTS", help="begin no run after so many"
    )
    parser.add_argument(
        "--at-least", type=int, default=1, metavar="RUNS", help="fewer are a failure"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
