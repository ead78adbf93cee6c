"""Figures that one wants of passed tests, too: `tests/conftest.py` prints them at the end of the run.

Whoever counts something names a section here and says how to tell it. With pytest-xdist each process has counts of its
own; those that counted anything are printed.
"""

from collections.abc import Callable, Iterable

Section = tuple[str, list[str]]
_sections: dict[str, Callable[[], Iterable[str]]] = {}


def tell(title: str, lines: Callable[[], Iterable[str]]) -> None:
    """Have `lines`, as they are at the end of the run, printed below `title`; nothing where there are none."""
    _sections[title] = lines


def told() -> list[Section]:
    """What this process has counted."""
    found = [(title, list(lines())) for title, lines in _sections.items()]
    return [(title, lines) for title, lines in found if lines]
