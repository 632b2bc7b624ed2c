"""What a campaign says: each failed run as it comes, and at the end a table with remarks."""

import sys
from collections import Counter, defaultdict

from rich.console import Console

from tests.chaos.faults import AGAIN, FAULTS, NONE, Fault
from tests.chaos.result import RunResult

# A fault that was due so often and never struck tried nothing. In one run its point may lie
# beyond what the run passes.
_OFTEN = 3


def report_run(console: Console, result: RunResult, protocol: str) -> None:
    """Print a failed run: how to play it again, what is wrong, and the members' last words."""
    if not result.verdict.faults:
        return
    again = f'--only {result.seed} --fault "{result.fault}" --group-protocol {protocol}'
    console.print(f"[red]FAULT[/] {again}", soft_wrap=True)
    for sentence in result.verdict.faults:
        console.print(f"    {sentence}", markup=False)
    for line in result.last_words:
        console.print(f"      | {line}", markup=False, soft_wrap=True)


def report_remarks(results: list[RunResult], unplayed: int, skipped: list[Fault]) -> bool:
    """Print what the table does not show; return whether every run and every fault was as due."""
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


def never_struck(results: list[RunResult]) -> list[str]:
    """Return the faults that were due several times and struck in no run."""
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
