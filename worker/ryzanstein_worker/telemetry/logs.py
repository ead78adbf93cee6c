"""Logging for the parent and the ranks: one JSON object a line, plain text on a terminal.

Fields: ts (RFC 3339, UTC), level, logger, message, then whatever the call put into `extra`. An exception's
traceback goes into the field `exception`, so that a record always stays one line.
"""

import datetime
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import IO, Final

import msgspec

from ryzanstein_worker.contract import ENV_LOG_LEVEL
from ryzanstein_worker.telemetry.log_level import set_level

_STANDARD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

_bound: Final[ContextVar[Mapping[str, object]]] = ContextVar("log_fields", default=MappingProxyType({}))


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Fields of every record that this task, and those it starts, log meanwhile: a request's ids."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object a record. Values that JSON does not know are written as their text."""

    def __init__(self, **fields: object) -> None:
        super().__init__()
        self._fields = fields
        self._encoder = msgspec.json.Encoder(enc_hook=str)

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        entry: dict[str, object] = {
            "ts": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._fields,
            **_bound.get(),
            **extras(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return self._encoder.encode(entry).decode()


class TextFormatter(logging.Formatter):
    """For a person at a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        tail = " ".join(f"{name}={value}" for name, value in {**_bound.get(), **extras(record)}.items())
        return f"{text}  {tail}" if tail else text


def extras(record: logging.LogRecord) -> dict[str, object]:
    """What the caller passed as `extra`."""
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD_FIELDS}


def configure_logging(stream: IO[str] | None = None, **fields: object) -> int:
    """Send every logger's records to `stream` (default stderr), at the level RYZANSTEIN_LOG_LEVEL names (info), which
    is returned. Debug is our own loggers' alone.

    `fields` stand in every JSON record of this process (a rank passes its number and epoch). A level that is no
    level is treated as info: a log setting must never keep a worker from starting.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if stream.isatty() else JsonFormatter(**fields))
    level = logging.getLevelNamesMapping().get(os.environ.get(ENV_LOG_LEVEL, "info").upper(), logging.INFO)
    logging.basicConfig(handlers=[handler], force=True)
    set_level(level)
    return level
