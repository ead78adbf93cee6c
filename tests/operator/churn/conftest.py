"""The count of sequences and steps, printed in the end: a figure that one wants of passed tests, too."""

import pytest

from churn_play import Tally

TALLY = Tally()


@pytest.fixture(scope="session")
def tally() -> Tally:
    return TALLY


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLY.sequences:
        terminalreporter.section("random sequences of specs and accidents")
        for line in TALLY.lines():
            terminalreporter.line(line)
