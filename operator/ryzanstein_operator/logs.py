"""Structured logs: one JSON object a line on standard error. Knows logging; knows nothing of what is logged."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, message, then what `extra=` gave, then the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        # kopf hands the object it speaks of in extras of its own; they would repeat a whole manifest a line.
        extras = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        line |= {key: value for key, value in extras.items() if not key.startswith(("k8s_", "settings"))}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def setup(level: str = "info", stream: TextIO = sys.stderr) -> None:
    """Send every record of `level` and above to `stream`. Raises ValueError for a level that logging does not know."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
