"""What holds for every test: it leaves the process as it found it. And the figures that some tell at the end."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import figures
from stages import is_left_out

# How long an example takes says nothing of the product: any process may stand still for a second or two.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", PATIENT, derandomize=True)  # what passed here passes in CI: each run draws the same
settings.register_profile("explore", PATIENT)  # --hypothesis-profile=explore looks for new examples
settings.load_profile("same")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Each process of the fast tests collects all of them: what it would leave out is not even imported. A file that
    is named on the command line is."""
    if not collection_path.match("test_*.py"):
        return None
    named = {config.invocation_params.dir / argument.partition("::")[0] for argument in config.args}
    text = "" if collection_path in named else collection_path.read_text()
    markers = [line.partition(":")[0] for line in config.getini("markers")]
    return True if is_left_out(text, config.option.markexpr, markers) else None  # None: others may say something


@pytest.fixture(autouse=True)
def no_log_is_silenced_for_the_next() -> Iterator[None]:
    """`logging.disable` holds for the whole process: a test that leaves it on blinds those after it, by chance of
    which worker of pytest-xdist runs them."""
    yield
    left, logging.root.manager.disable = logging.root.manager.disable, 0
    assert left == 0, "this test, or what it ran, called logging.disable and left it on"


@pytest.fixture(autouse=True)
def no_exporter_of_traces_goes_on_beside_the_next() -> Iterator[None]:
    """One that tries again and again draws from `random`: a test of Hypothesis' that runs meanwhile fails for it."""
    yield
    late = [thread for thread in threading.enumerate() if thread.name.startswith(("Otel", "trace flush"))]
    for thread in late:
        thread.join(30)
    assert not [thread.name for thread in late if thread.is_alive()]


HEARD: list[figures.Section] = []
"""From the processes of pytest-xdist."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of pytest-xdist hands on what was counted in it."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["figures"] = figures.told()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """And the one that prints takes it. A process that died has handed on nothing."""
    HEARD.extend(getattr(node, "workeroutput", {}).get("figures", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A section for each."""
    for title, lines in [*figures.told(), *HEARD]:
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.line(line)
