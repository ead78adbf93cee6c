"""Asks a live Prometheus what every panel of every dashboard asks, and says which get nothing.

The queries are those of the files that are shipped (manifests/grafana); which of them may have no data, and why, comes
from the dashboards' code. Variables are filled as Grafana would fill them, unless the caller chooses.
"""

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_server import Prometheus
from ryzanstein_dashboards.model import Dashboard
from ryzanstein_dashboards.pages import PAGES, file_name

FOLDER = Path(__file__).resolve().parents[2] / "manifests" / "grafana"
_LABEL_VALUES = re.compile(r"label_values\((?P<metric>.+), (?P<label>\w+)\)")

Chosen = Mapping[str, Mapping[str, str]]
"""By a dashboard's uid: values of its variables."""


@dataclass(frozen=True)
class Finding:
    """A query without data. quiet: why that may be; empty where it may not. error: why Prometheus refused it."""

    dashboard: str
    panel: str
    expr: str
    quiet: str = ""
    error: str = ""

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.panel}: {self.expr}{' : ' + self.error if self.error else ''}"


@dataclass(frozen=True)
class Asked:
    """How a check went: queries with data, and those without."""

    answered: int
    findings: tuple[Finding, ...]

    @property
    def missing(self) -> tuple[Finding, ...]:
        """Those for which no reason is given."""
        return tuple(one for one in self.findings if one.error or not one.quiet)


def shipped(page: Dashboard) -> dict[str, Any]:
    """A dashboard as its file has it."""
    loaded: dict[str, Any] = json.loads((FOLDER / file_name(page)).read_text())
    return loaded


def ask(
    server: Prometheus,
    chosen: Chosen | None = None,
    *,
    window: str = "30s",
    seconds: float = 60.0,
    at: float | None = None,
) -> Asked:
    """Every query of every panel, over the last `seconds`. window: what $__rate_interval is taken for. at: the time of
    them all, in seconds since 1970; else each is asked for its own moment, though hundreds of them take their time."""
    answered, findings = 0, []
    for page in PAGES:
        values = variables(server, shipped(page), (chosen or {}).get(page.uid, {}), at)
        for panel, target, quiet in _targets(page):
            expr = expand(target["expr"], values, window)
            error = ""
            try:
                found = _has_data(server, expr, instant=bool(target.get("instant")), seconds=seconds, at=at)
            except AssertionError as refused:
                found, error = False, str(refused)
            answered += found
            if not found:
                findings.append(Finding(page.uid, panel, expr, quiet, error))
    return Asked(answered, tuple(findings))


def variables(
    server: Prometheus, loaded: dict[str, Any], chosen: Mapping[str, str], at: float | None = None
) -> dict[str, str]:
    """The values of a dashboard's variables: as chosen, else all where that is possible, else the first there is."""
    values: dict[str, str] = {}
    for variable in loaded["templating"]["list"]:
        name = variable["name"]
        if variable["type"] == "datasource":
            continue
        if name in chosen:
            values[name] = chosen[name]
        elif variable.get("includeAll"):
            values[name] = variable["allValue"]
        else:
            match = _LABEL_VALUES.fullmatch(variable["query"])
            assert match, variable
            metric = expand(match["metric"], values, "1m")
            now = at or time.time()
            span = {"start": str(now - 300), "end": str(now)}
            found = server.api(f"label/{match['label']}/values", **{"match[]": metric}, **span)
            assert found, f"{loaded['uid']}: nothing to choose for {name}: {metric} has no label {match['label']}"
            values[name] = found[0]
    return values


def expand(text: str, values: Mapping[str, str], window: str) -> str:
    """A query with its variables put in."""
    whole = text.replace("$__rate_interval", window)
    for name in sorted(values, key=len, reverse=True):
        whole = whole.replace(f"${name}", values[name])
    return whole


def _targets(page: Dashboard) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each query's panel and itself as shipped, and the reason for which it may have no data."""
    panels = [panel for panel in shipped(page)["panels"] if panel["type"] != "row"]
    for panel, source in zip(panels, page.panels(), strict=True):
        for target, query in zip(panel["targets"], source.queries, strict=True):
            yield panel["title"], target, query.quiet


def _has_data(server: Prometheus, expr: str, *, instant: bool, seconds: float, at: float | None) -> bool:
    """Whether there is any number; a quotient of two zeros is none."""
    now = at or time.time()
    if instant:
        series = server.api("query", query=expr, time=str(now))["result"]
    else:
        series = server.api("query_range", query=expr, start=str(now - seconds), end=str(now), step="2")["result"]
    points = (point for one in series for point in (one.get("values") or [one["value"]]))
    return any(not math.isnan(float(value)) for _, value in points)
