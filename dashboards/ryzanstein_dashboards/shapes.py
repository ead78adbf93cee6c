"""Panels of a kind that several pages have. Knows how latencies and shares are shown; knows no Grafana."""

from typing import Final

from ryzanstein_dashboards.model import Kind, Panel, Query, Step
from ryzanstein_dashboards.promql import or_zero, quantile, rate

FULL: Final = (Step(0.85, "orange"), Step(0.95, "red"))
"""Of a share of something that runs out."""
ERRORS: Final = (Step(0.001, "orange"), Step(0.01, "red"))
"""Of a share of requests that failed."""
ANY_IS_BAD: Final = (Step(1, "red"),)
TOKENS_A_SECOND: Final = "si:tok/s"
SERVER_ERRORS: Final = 'code=~"5.."'
WHERE_NONE_FAILED: Final = "nothing has failed yet"


def stat(
    title: str,
    description: str,
    unit: str,
    expr: str,
    *,
    quiet: str = "",
    base: str = "green",
    steps: tuple[Step, ...] = (),
) -> Panel:
    """One number, with how it went below it."""
    query = Query(expr, title, quiet)
    return Panel(title, description, unit, (query,), kind=Kind.STAT, span=4, base=base, steps=steps)


def line(title: str, description: str, unit: str, expr: str, legend: str, *, quiet: str = "", span: int = 8) -> Panel:
    """One query over time."""
    return Panel(title, description, unit, (Query(expr, legend, quiet),), span=span)


def quantiles(title: str, description: str, histogram: str, where: str = "", *, quiet: str = "") -> Panel:
    """Median, 95th and 99th percentile of a time in seconds, and single requests where Prometheus keeps exemplars."""
    queries = tuple(
        Query(quantile(share, histogram, where), words, quiet)
        for share, words in ((0.5, "median"), (0.95, "95th percentile"), (0.99, "99th percentile"))
    )
    return Panel(title, description, "s", queries, exemplars=True)


def failed(where: str = "") -> Panel:
    """The share of the gateways' answers that are a server's fault."""
    answers = "ryzanstein_gateway_requests_total"
    bad = or_zero(rate(answers, ", ".join(part for part in (where, SERVER_ERRORS) if part)))
    text = "Share of the gateways' answers with a status of 500 or above. What clients did wrong does not count."
    return stat("Failed", text, "percentunit", f"{bad} / {rate(answers, where)}", steps=ERRORS)
