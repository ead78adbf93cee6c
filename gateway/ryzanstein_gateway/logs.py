"""One JSON object a line on standard output.

Knows the shape of a log line. Must never be handed a prompt, a completion or a key.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Final

import msgspec

from ryzanstein_gateway.level import apply

_ENCODER: Final = msgspec.json.Encoder()
_IDS: Final = ("request_id", "trace_id")
"""As Exchange.ids names them, for `extra`."""
ACCESS_LOGGER: Final = logging.getLogger("ryzanstein_gateway.access")


class AccessEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One finished request. Durations are milliseconds; a field that does not apply is left out."""

    request_id: str
    protocol: str
    """http, websocket or grpc."""
    method: str
    path: str
    status: int
    duration_ms: float
    model: str = ""
    key_id: str = ""
    """Tells keys apart, and nothing else of them."""
    endpoint: str = ""
    """The last replica."""
    tries: int = 0
    migrations: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    queue_ms: float = 0.0
    first_byte_ms: float | None = None
    outcome: str = ""
    """Why it did not end well: an error's code."""
    trace_id: str = ""


class JsonFormatter(logging.Formatter):
    """Time, level, logger, message; the ids of the request that it is about, the fields of an AccessEntry, the
    traceback, where there is one; and which process, where there are several."""

    def __init__(self, slot: int | None = None) -> None:
        super().__init__()
        self._process: dict[str, object] = {} if slot is None else {"process": slot}

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._process,
            **{name: value for name in _IDS if (value := record.__dict__.get(name))},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        text = _ENCODER.encode(line)
        entry = getattr(record, "access", None)
        if isinstance(entry, AccessEntry):
            text = text[:-1] + b"," + _ENCODER.encode(entry)[1:]
        return text.decode()


def configure_logging(level: str, slot: int | None = None) -> None:
    """Send every logger of the process to standard output as JSON, from `level` up. `slot`: of several processes."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(slot))
    logging.basicConfig(handlers=[handler], force=True)
    apply(level)
    # No line says these, so no record needs to look them up.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # The access log says the same and more; uvicorn's own would also print query strings.
    logging.getLogger("uvicorn.access").handlers.clear()
    logging.getLogger("uvicorn.access").propagate = False


def log_access(entry: AccessEntry) -> None:
    """Write one line of the access log."""
    if ACCESS_LOGGER.isEnabledFor(logging.INFO):
        # Logger.info would look up who calls it, which takes longer than all the rest.
        record = logging.LogRecord(ACCESS_LOGGER.name, logging.INFO, __file__, 0, "request", (), None)
        record.access = entry
        ACCESS_LOGGER.handle(record)
