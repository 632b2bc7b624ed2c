"""The benchmarks' output: a table of minimum, median and maximum, or JSON."""

import json
import statistics
from collections.abc import Mapping, Sequence


def summarize(samples: Sequence[float]) -> dict[str, float]:
    """Return minimum, median, maximum and the number of runs."""
    return {
        "min": round(min(samples), 4),
        "median": round(statistics.median(samples), 4),
        "max": round(max(samples), 4),
        "runs": len(samples),
    }


def show(title: str, rows: Mapping[str, Sequence[float]], *, as_json: bool) -> None:
    """Print the samples of each row, in the unit that the title names."""
    summary = {name: summarize(samples) for name, samples in rows.items()}
    if as_json:
        print(json.dumps({"title": title, "rows": summary}, ensure_ascii=False))
        return
    print(f"\n{title}")
    print(f"{'':44} {'min':>10} {'median':>10} {'max':>10} {'runs':>5}")
    for name, s in summary.items():
        print(f"{name:44} {s['min']:>10} {s['median']:>10} {s['max']:>10} {s['runs']:>5}")
