"""How things look: moods, marks and columns, the same in every command. Knows rich."""

import json
import sys
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, Final, TextIO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ryzanstein_kubectl.model.tree import Mood

STYLES: Final[dict[Mood, str]] = {"good": "green", "waiting": "yellow", "bad": "red", "leaving": "dim"}
_MARKS: Final[dict[Mood, str]] = {"good": "●", "waiting": "◐", "bad": "✗", "leaving": "○"}
_PLAIN_MARKS: Final[dict[Mood, str]] = {"good": "*", "waiting": "~", "bad": "x", "leaving": "-"}
PIPE_WIDTH: Final = 10_000
"""Where no terminal is, nothing is cut off."""


def console(stream: TextIO | None = None) -> Console:
    """For standard output: colour only on a terminal and without NO_COLOR, as wide as the terminal, else as needed."""
    stream = stream or sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=False, markup=False, emoji=False)


def show(target: Console, view: RenderableType) -> None:
    """Print; into a pipe without the blanks that fill up a terminal's lines."""
    if target.is_terminal:
        target.print(view)
        return
    with target.capture() as captured:
        target.print(view)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)


def mark(mood: Mood, *, plain: bool) -> Text:
    """The sign that goes before a name."""
    return Text((_PLAIN_MARKS if plain else _MARKS)[mood], STYLES[mood])


def table(*columns: str, right: Iterable[str] = (), give: Iterable[str] = ()) -> Table:
    """Columns without lines, as kubectl's; those in `right` hold numbers, those in `give` are cut where space is
    short. Fill it by `add_row`."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for column in columns:
        justify: Any = "right" if column in right else "left"
        least = 8 if column in give else len(column)
        made.add_column(Text(column, no_wrap=True), justify=justify, no_wrap=column not in give, min_width=least)
    return made


def add_row(rows: Table, *cells: Text | str, style: str = "") -> None:
    """One line of a table; no cell ever takes a second one."""
    texts = [Text(cell) if isinstance(cell, str) else cell for cell in cells]
    for text in texts:
        text.no_wrap, text.overflow = True, "ellipsis"
    rows.add_row(*texts, style=style)


def dash(value: object | None) -> Text:
    """A cell; what is not known is a dim dash."""
    return Text("-", "dim") if value in (None, "") else Text(str(value))


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.0f}%"


def to_json(value: object) -> str:
    """One line of JSON; the names of fields in camelCase, as in Kubernetes."""
    return json.dumps(_wire(value), ensure_ascii=False)


def _wire(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {_camel(field.name): _wire(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: _wire(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_wire(item) for item in value]
    return value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
