"""The page of the metrics."""

from config.metrics import Metrics
from tools.docs_reference.markdown import code, page, table

_INTRODUCTION = """\
# Metrics

`GET /metrics` of the operators' server has them in Prometheus's format; so has the role `host` on
its own port. No elder's id is a label. A histogram `x` has the series `x_bucket`, `x_sum` and
`x_count`."""


def metrics_page() -> str:
    """Render the page."""
    sections = []
    for title, definitions in Metrics().catalogue().items():
        rows = [
            (code(d.name), d.kind, ", ".join(map(code, d.labels)), d.meaning) for d in definitions
        ]
        sections += [f"## {title}", table(["name", "type", "labels", "meaning"], rows)]
    return page(_INTRODUCTION, *sections)
