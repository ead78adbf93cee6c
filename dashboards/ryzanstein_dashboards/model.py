"""What a dashboard is made of: queries in panels in rows, and variables. Types alone; knows no Grafana."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How a panel shows what its queries give."""

    SERIES = "timeseries"
    STACK = "stack"
    STAT = "stat"
    TABLE = "table"


@dataclass(frozen=True)
class Query:
    """One query of PromQL. legend: of its series, with {{labels}}; of a table, the column's title. quiet: why a system
    in good health may have no data for it, as a clause; empty where it always has."""

    expr: str
    legend: str
    quiet: str = ""
    unit: str = ""
    """Of a table's column, where it is not the panel's."""


@dataclass(frozen=True)
class Step:
    """From `value` on, `color`."""

    value: float
    color: str


@dataclass(frozen=True)
class Panel:
    """One picture. unit: Grafana's. span: columns of 24. base, steps: a value's color, and from which value on another.
    exemplars: single requests are shown where Prometheus keeps them. links_to: of a table, the dashboard that a row
    leads to (its uid), with the row's labels as its variables."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = Kind.SERIES
    span: int = 8
    base: str = "green"
    steps: tuple[Step, ...] = ()
    maximum: float | None = None
    decimals: int | None = None
    exemplars: bool = False
    links_to: str = ""


@dataclass(frozen=True)
class Row:
    """Panels below a title."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """What the reader chooses: the values of `source_label` in `metric` (a selector). label: what stands beside the
    choice. many: several, or all, at once; then it is a regular expression in queries. hidden: follows from the others.
    Links carry the choice to the pages that have a variable of the same name, so the name says whether it is many."""

    name: str
    label: str
    metric: str
    source_label: str
    many: bool = False
    hidden: bool = False


@dataclass(frozen=True)
class Dashboard:
    """One page. uid: stable, since links and bookmarks hold it; also the file's name, without `ryzanstein-`."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()

    def panels(self) -> Iterator[Panel]:
        """All of them, in their order."""
        for row in self.rows:
            yield from row.panels
