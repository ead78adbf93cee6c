"""The table of `top`: a row a replica, and a sum."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from ryzanstein_kubectl.model.rates import Row
from ryzanstein_kubectl.view.terminal import STYLES, add_row, dash, mark, percent, table

COLUMNS = ("REPLICA", "SERVICE", "STATE", "RUN", "WAIT", "KV", "TOKENS/S", "TTFT P50", "NODE")
NUMBERS = ("RUN", "WAIT", "KV", "TOKENS/S", "TTFT P50")
BUSY, FULL = 0.7, 0.9
"""Shares of the KV cache from which on it is worth a colour."""


def top_view(rows: Sequence[Row], notes: Sequence[str], *, plain: bool) -> RenderableType:
    """Everything, ready to print."""
    if not rows:
        told = [Text(note, "dim") for note in notes]
        return Group(Text("No replicas run here; -n names another namespace, -A shows all."), *told)
    spaces, services = {row.namespace for row in rows}, {(row.namespace, row.service) for row in rows}
    columns = COLUMNS if len(services) > 1 else tuple(column for column in COLUMNS if column != "SERVICE")
    made = table(*columns, right=NUMBERS, give=("REPLICA", "SERVICE", "NODE"))
    for row in rows:
        service = f"{row.namespace}/{row.service}" if len(spaces) > 1 else row.service
        name, *rest = _cells(row, plain)
        add_row(made, name, *([Text(service, "dim")] if len(services) > 1 else []), *rest)
    if len(rows) > 1:
        name, *rest = _sum(rows)
        add_row(made, name, *([Text()] if len(services) > 1 else []), *rest, style="bold")
    return Group(made, *([Text(), *(Text(note, "dim") for note in notes)] if notes else []))


def _cells(row: Row, plain: bool) -> tuple[Text, ...]:
    load = row.load
    running = waiting = kv = dash(None)
    if load is not None:
        running = Text(str(load.running), "" if load.running else "dim")
        waiting = Text(str(load.waiting), "yellow" if load.waiting else "dim")
        share = load.kv_cache_usage
        kv = Text(percent(share), "red" if share >= FULL else "yellow" if share >= BUSY else "")
    return (
        Text.assemble(mark(row.mood, plain=plain), " ", row.replica),
        Text(row.state, STYLES[row.mood]),
        running,
        waiting,
        kv,
        tokens(row.tokens_per_second),
        milliseconds(row.ttft_p50_seconds),
        dash(row.node),
    )


def _sum(rows: Sequence[Row]) -> tuple[Text, ...]:
    loads = [row.load for row in rows if row.load is not None]
    speeds = [row.tokens_per_second for row in rows if row.tokens_per_second is not None]
    ready = sum(row.mood == "good" for row in rows)
    return (
        Text(f"  {ready} of {len(rows)} ready"),
        Text(),
        dash(sum(load.running for load in loads) if loads else None),
        dash(sum(load.waiting for load in loads) if loads else None),
        Text(),
        tokens(sum(speeds) if speeds else None),
        Text(),
        Text(),
    )


def tokens(speed: float | None) -> Text:
    if speed is None:
        return dash(None)
    return Text(f"{speed:.0f}" if speed >= 10 or speed == 0 else f"{speed:.1f}", "" if speed else "dim")


def milliseconds(seconds: float | None) -> Text:
    if seconds is None:
        return dash(None)
    return Text(f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s")
