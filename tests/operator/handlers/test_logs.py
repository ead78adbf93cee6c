"""Each record is one JSON object on one line, whatever is logged."""

import io
import json
import logging
import signal
from collections.abc import Iterator

import pytest

from ryzanstein_operator import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger(logs.OURS).setLevel(logging.NOTSET)


def test_a_record_is_one_line_of_json() -> None:
    stream = io.StringIO()
    logs.setup("info", stream)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("x").exception("a %s", "b", extra={"key": "team/chat", "k8s_ref": {"large": 1}})
    logging.getLogger("x").debug("not shown")
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert (record["level"], record["message"], record["key"]) == ("error", "a b", "team/chat")
    assert "ValueError: two\nlines" in record["exception"]
    assert "k8s_ref" not in record


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        logs.setup("loud", io.StringIO())


def test_records_of_a_task_say_what_it_is_about_whoever_writes_them() -> None:
    stream = io.StringIO()
    logs.setup("info", stream)
    with logs.about(key="team/chat", trace_id=""), logs.about(trace_id="5b8a"):
        logging.getLogger("library").warning("slow", extra={"seconds": 3})
        logging.getLogger("library").warning("other", extra={"key": "its own"})
    logging.getLogger("library").warning("after")
    first, second, third = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["key"], first["trace_id"], first["seconds"]) == ("team/chat", "5b8a", 3)
    assert second["key"] == "its own"
    assert third.keys() == {"time", "level", "logger", "message"}


def clear(stream: io.StringIO) -> None:
    stream.seek(0)
    stream.truncate()


def say(stream: io.StringIO) -> list[str]:
    """What of our own and of a library's records is written now."""
    clear(stream)
    for name in ("ryzanstein_operator.x", "library"):
        for level in (logging.DEBUG, logging.INFO, logging.ERROR):
            logging.getLogger(name).log(level, name[:3])
    return [f"{record['level']} {record['message']}" for record in map(json.loads, stream.getvalue().splitlines())]


@pytest.mark.parametrize(
    ("configured", "shown"),
    [
        ("info", ["info ryz", "error ryz", "info lib", "error lib"]),
        ("ERROR", ["error ryz", "error lib"]),
        ("debug", ["debug ryz", "info ryz", "error ryz", "info lib", "error lib"]),
    ],
)
def test_a_signal_shows_everything_of_ours_and_another_what_is_configured(configured: str, shown: list[str]) -> None:
    stream = io.StringIO()
    logs.setup(configured, stream)
    before = signal.getsignal(signal.SIGUSR1)
    with logs.signals(configured):
        assert say(stream) == shown
        clear(stream)
        for number in (signal.SIGUSR1, signal.SIGUSR1):
            signal.raise_signal(number)
        (line,) = stream.getvalue().splitlines()
        assert json.loads(line)["message"] == "The log's level is debug from now on"
        assert say(stream) == ["debug ryz", "info ryz", "error ryz", "info lib", "error lib"]
        clear(stream)
        for number in (signal.SIGUSR2, signal.SIGUSR2):
            signal.raise_signal(number)
        (line,) = stream.getvalue().splitlines()
        assert json.loads(line)["message"] == f"The log's level is {configured.lower()} from now on"
        assert say(stream) == shown
    assert signal.getsignal(signal.SIGUSR1) is before
