"""The shapes of PromQL that panels share. Knows the language; knows no metric's meaning.

`where` is what stands between braces, without them. Windows are Grafana's $__rate_interval, which is never shorter than
four scrapes.
"""

from typing import Final

WINDOW: Final = "$__rate_interval"


def select(metric: str, where: str = "") -> str:
    """One metric's series."""
    return f"{metric}{{{where}}}" if where else metric


def aggregated(function: str, inner: str, by: str = "") -> str:
    """`sum`, `max`, ... over all labels but those of `by` (separated by commas)."""
    return f"{function} by ({by}) ({inner})" if by else f"{function}({inner})"


def rate(counter: str, where: str = "", by: str = "") -> str:
    """How much a counter grows a second, summed."""
    return aggregated("sum", f"rate({select(counter, where)}[{WINDOW}])", by)


def increase(counter: str, where: str = "", by: str = "") -> str:
    """How much a counter has grown over the window, summed."""
    return aggregated("sum", f"increase({select(counter, where)}[{WINDOW}])", by)


def quantile(share: float, histogram: str, where: str = "", by: str = "") -> str:
    """Below which value this share of what was observed lies."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', where, f'{by}, le' if by else 'le')})"


def mean(histogram: str, where: str = "", by: str = "") -> str:
    """The mean of what was observed."""
    return f"{rate(f'{histogram}_sum', where, by)} / {rate(f'{histogram}_count', where, by)}"


def or_zero(query: str) -> str:
    """Nothing counts as none: for a number of events of a kind that has no series before the first."""
    return f"({query} or vector(0))"
