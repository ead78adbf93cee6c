"""Logs: one JSON object a line, whatever is logged."""

import io
import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ryzanstein_worker.contract import ENV_LOG_LEVEL
from ryzanstein_worker.telemetry.log_level import OWN, Switch
from ryzanstein_worker.telemetry.logs import bound, configure_logging

logger = logging.getLogger("ryzanstein_worker.test")
library = logging.getLogger("library")
HEARD = (logger.name, library.name, "ryzanstein_worker.telemetry.log_level")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("", *OWN)}
    handlers = root.handlers[:]
    root.handlers.clear()  # pytest's own, which configure_logging would close
    yield io.StringIO()
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def entries(stream: io.StringIO) -> list[dict[str, object]]:
    """Those of HEARD: whatever else runs in this process may log meanwhile."""
    read = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [entry for entry in read if entry["logger"] in HEARD]


def test_a_record_is_one_line_with_the_named_fields_and_the_extras(stream: io.StringIO) -> None:
    configure_logging(stream, rank=1)
    logger.warning("two\nlines of %s", "text", extra={"request_id": "r", "path": Path("/x")})
    (entry,) = entries(stream)
    assert entry.pop("ts", "").endswith("Z")  # type: ignore[attr-defined]  # a string in JSON
    assert entry == {
        "level": "warning",
        "logger": "ryzanstein_worker.test",
        "message": "two\nlines of text",
        "rank": 1,
        "request_id": "r",
        "path": "/x",
    }


def test_an_exception_stays_on_its_line(stream: io.StringIO) -> None:
    configure_logging(stream)
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("it failed")
    (entry,) = entries(stream)
    assert "ValueError: why" in str(entry["exception"])


@pytest.mark.parametrize(("level", "count"), [("debug", 2), ("INFO", 1), ("error", 0), ("nonsense", 1)])
def test_the_environment_sets_the_level(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, level: str, count: int
) -> None:
    monkeypatch.setenv(ENV_LOG_LEVEL, level)
    configure_logging(stream)
    logger.debug("low")
    logger.info("middle")
    assert len(entries(stream)) == count


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("stream")
def test_a_terminal_gets_text() -> None:
    terminal = Terminal()
    configure_logging(terminal)
    logger.info("hello", extra={"port": 8000})
    lines = terminal.getvalue().splitlines()
    assert any(line.endswith("INFO    ryzanstein_worker.test: hello  port=8000") for line in lines)


def test_what_a_request_is_bound_to_stands_in_its_lines_alone(stream: io.StringIO) -> None:
    configure_logging(stream)
    with bound(request_id="r-1"), bound(trace_id="t-1"):
        logger.info("within")
    logger.info("beyond")
    within, beyond = entries(stream)
    assert (within["request_id"], within["trace_id"]) == ("r-1", "t-1")
    assert "request_id" not in beyond
    assert "trace_id" not in beyond


@pytest.mark.parametrize("level", ["debug", "info", "error"])
def test_a_signal_changes_our_own_loggers_and_each_change_is_one_line(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setenv(ENV_LOG_LEVEL, level)
    switch = Switch()
    switch._configured = switch._level = configure_logging(stream)
    for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR2):
        switch.turn(number)
        logger.debug(signal.Signals(number).name)
        library.debug("a header, a key")
    said = [(entry["message"], entry.get("to", "")) for entry in entries(stream)]
    debug = [("SIGUSR1", ""), ("SIGUSR1", "")]
    change = "the log's level is changed"
    if level == "debug":
        assert said == [*debug, ("SIGUSR2", ""), ("SIGUSR2", "")]
    else:
        assert said == [(change, "debug"), *debug, (change, level)]
