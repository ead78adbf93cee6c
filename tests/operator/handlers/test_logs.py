"""Each record is one JSON object on one line, whatever is logged."""

import io
import json
import logging
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
