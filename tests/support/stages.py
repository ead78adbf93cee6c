"""Which test files a run has no use for: those whose every test its `-m` leaves out. Their text says so, unread by
Python."""

import re
from collections.abc import Iterable

from _pytest.mark.expression import Expression

_LINE = re.compile(r"^pytestmark = (.*)$", re.MULTILINE)
_MARK = re.compile(r"pytest\.mark\.(\w+)")


def marks_of(text: str) -> frozenset[str]:
    """What the first line of a file's `pytestmark` gives to all of its tests."""
    found = _LINE.search(text)
    return frozenset(_MARK.findall(found[1])) if found else frozenset()


def is_left_out(text: str, expression: str, markers: Iterable[str]) -> bool:
    """Whether no test of the file can be chosen by this `-m`, whichever of these marks, beside the file's own, a test
    of it may bear: by itself, as a parameter's, or from a conftest."""
    marks = marks_of(text)
    if not expression or not marks:
        return False
    others = frozenset(markers) - marks
    chosen = Expression.compile(expression).evaluate
    several = (marks, marks | others, *(marks | {one} for one in others))
    return not any(chosen(lambda name, among=bearing, **_: name in among) for bearing in several)
