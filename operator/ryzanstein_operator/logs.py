"""Structured logs: one JSON object a line on standard error. Knows logging; knows nothing of what is logged.

The level may change while the process runs. Debugging shows our own loggers' DEBUG alone: kopf and the HTTP client
would print whole objects. They stay at what is configured, INFO at the lowest.
"""

import contextlib
import json
import logging
import signal
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import FrameType, MappingProxyType
from typing import Final, TextIO

OURS: Final = "ryzanstein_operator"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_about: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))

logger = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, message, what the record is `about`, then what `extra=` gave, then
    the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_about.get(),
        }
        # kopf hands the object it speaks of in extras of its own; they would repeat a whole manifest a line.
        extras = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        line |= {key: value for key, value in extras.items() if not key.startswith(("k8s_", "settings"))}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


@contextlib.contextmanager
def about(**fields: str) -> Iterator[None]:
    """Every record of this task within carries these fields, whoever writes it; empty ones are left out."""
    token = _about.set({**_about.get(), **{name: value for name, value in fields.items() if value}})
    try:
        yield
    finally:
        _about.reset(token)


def setup(level: str = "info", stream: TextIO = sys.stderr) -> None:
    """Send every record of `level` and above to `stream`. Raises ValueError for a level that logging does not know."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    _apply(logging.getLevelNamesMapping()[level.upper()])


@contextlib.contextmanager
def signals(configured: str) -> Iterator[None]:
    """Within, SIGUSR1 shows everything and SIGUSR2 what is configured again, each with one line at a change. Works from
    the process' first moment on, and while its event loop is stuck. Call it from the main thread."""
    level, debugging = logging.getLevelNamesMapping()[configured.upper()], [False]

    def change(number: int, _: FrameType | None) -> None:
        wanted = number == signal.SIGUSR1
        if wanted == debugging[0]:
            return
        debugging[0] = wanted
        _apply(logging.DEBUG if wanted else level)
        name = logging.getLevelName(logging.DEBUG if wanted else level).lower()
        words = "The log's level is %s from now on"
        # Not through a level: the line is written also where only errors are. Locks of logging are reentrant.
        logger.handle(logger.makeRecord(logger.name, logging.INFO, __file__, 0, words, (name,), None))

    before = {number: signal.signal(number, change) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _apply(level: int) -> None:
    logging.getLogger().setLevel(max(logging.INFO, level))
    logging.getLogger(OURS).setLevel(level)
