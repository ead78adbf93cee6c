"""The count of sequences and steps, printed in the end: a figure that one wants of passed tests, too."""

import pytest

import figures
from churn_play import Tally

TALLY = Tally()
figures.tell("random sequences of specs and accidents", lambda: TALLY.lines() if TALLY.sequences else ())


@pytest.fixture(scope="session")
def tally() -> Tally:
    return TALLY
