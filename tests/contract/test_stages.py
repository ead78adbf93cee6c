"""No test is lost between the fast tests and the later stage, though each of them leaves whole files unread."""

import re
from pathlib import Path

import pytest

from stages import is_left_out

ROOT = Path(__file__).resolve().parents[2]
MARKERS = ["e2e", "apiserver", "helm", "gpu", "browser", "slow", "ranks"]


def expressions() -> tuple[str, str]:
    """What the Makefile's fast tests and its later stage give to `-m`."""
    text = (ROOT / "Makefile").read_text()
    (later,) = re.findall(r"^LATER := (.*)$", text, re.MULTILINE)
    fast, after = (expression.replace("$(LATER)", later) for expression in re.findall(r'-m "([^"]*)"', text))
    assert fast.startswith("not gpu and not (")
    return fast, after


def test_what_the_fast_tests_leave_unread_the_later_stage_reads() -> None:
    files = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path.parent.name != "gpu"]
    fast, later = expressions()
    unread = [text for text in files if is_left_out(text, fast, MARKERS)]
    assert len(unread) > 10, "nothing is gained by it"
    assert not [text[:200] for text in unread if is_left_out(text, later, MARKERS)]


@pytest.mark.parametrize(
    ("text", "expression", "left_out"),
    [
        ("pytestmark = pytest.mark.slow", "not (slow or ranks)", True),
        ("pytestmark = [pytest.mark.ranks, pytest.mark.timeout(9)]", "not (slow or ranks)", True),
        ("pytestmark = pytest.mark.timeout(9)", "not (slow or ranks)", False),
        ("pytestmark = pytest.mark.timeout(9)", "slow or ranks", False),  # a test of it may be slow
        ("pytestmark = pytest.mark.slow", "slow or ranks", False),
        ("pytestmark = pytest.mark.slow", "", False),
        ("pytestmark = pytest.mark.slow", "browser and not ranks", False),  # one of its tests may need a browser
        ("pytestmark = pytest.mark.ranks", "browser and not ranks", True),
        ("@pytest.mark.slow", "not slow", False),  # the file may have other tests
    ],
)
def test_a_file_is_left_out_where_its_own_marks_leave_no_test_of_it(text: str, expression: str, left_out: bool) -> None:
    assert is_left_out(text, expression, MARKERS) is left_out
