"""What holds for every test: it leaves the process as it found it."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_log_is_silenced_for_the_next() -> Iterator[None]:
    """`logging.disable` holds for the whole process: a test that leaves it on blinds those after it, by chance of
    which worker of pytest-xdist runs them."""
    yield
    left, logging.root.manager.disable = logging.root.manager.disable, 0
    assert left == 0, "this test, or what it ran, called logging.disable and left it on"
