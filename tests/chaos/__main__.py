"""The fault campaign: `python -m tests.chaos --runs 40 --seed 1`.

Each run has a seed of its own, printed; `--only SEED` plays that run again.
"""

import argparse
import math
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tests.chaos.campaign import Campaign, Limits
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.report import report_remarks, report_run, table
from tests.chaos.result import RunResult
from tests.chaos.world import KafkaKind, World
from tests.servers.apache_kafka import missing_tools

console = Console(stderr=True)


def main() -> int:
    """Run a campaign; the exit code is 0 only if every run is without fault."""
    options = _options()
    kafka = _kafka(options)
    possible = [f for f in FAULTS if kafka == "apache" or not f.needs_apache]
    seeds = _seeds(options)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    with World(folder, kafka) as world, Progress(console=console, disable=options.quiet) as bars:
        console.print(f"Seed {options.seed}, runs {seeds[0]} to {seeds[-1]}")
        bar = bars.add_task(f"Faults ({kafka})", total=len(seeds))

        def note(result: RunResult) -> None:
            bars.advance(bar)
            report_run(console, result, options.group_protocol)

        campaign = Campaign(
            seeds=seeds,
            faults=_chosen(possible, options.fault),
            group_protocol=options.group_protocol,
            limits=Limits(minutes=options.minutes, failed_runs=options.stop_after),
            note=note,
            say=console.print,
        )
        campaign.play(world, options.parallel)
    print(table(campaign.results, kafka, options.group_protocol))
    skipped = [fault for fault in FAULTS if fault not in possible]
    is_clean = report_remarks(campaign.results, len(seeds) - campaign.played, skipped)
    if is_clean:
        shutil.rmtree(folder)
    else:
        print(f"\nThe folder of the runs is kept: {folder}", file=sys.stderr)
    campaign.raise_errors()
    is_short = campaign.is_broken_off or campaign.played < options.at_least
    return 0 if is_clean and not is_short else 1


def _kafka(options: argparse.Namespace) -> KafkaKind:
    """Return the Kafka that was asked for, else Apache Kafka where its tools are installed."""
    kafka: KafkaKind = "embedded" if missing_tools() else "apache"
    if options.kafka is not None:
        kafka = options.kafka
    if kafka == "embedded" and options.group_protocol == "consumer":
        sys.exit("--group-protocol consumer needs Apache Kafka (Java 17 and Maven)")
    return kafka


def _seeds(options: argparse.Namespace) -> list[int]:
    first = options.seed * 10_000
    return [options.only] if options.only else list(range(first, first + options.runs))


def _chosen(possible: list[Fault], name: str) -> list[Fault]:
    """Return the fault of this name, else those whose name contains it."""
    named = [f for f in possible if name == f.name]
    return named or [f for f in possible if name in f.name]


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
