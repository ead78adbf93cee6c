"""Probes and metrics over HTTP, in a thread of their own. Knows questions and answers; knows nothing of the operator.

A thread, because an event loop that is stuck must be told by an answer that says so, not by silence.
"""

import json
import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from ryzanstein_worker import contract

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What a probe says: `reason` is empty, or the sentence that tells what is wrong; `detail` rides along."""

    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Probes:
    """Asked from the server's threads: each must answer at once and from any thread."""

    live: Callable[[], Answer]
    ready: Callable[[], Answer]
    metrics: Callable[[str], tuple[bytes, str]]
    """From an Accept header to a page and its content type."""


class HealthServer:
    """Serves `contract.HEALTH_LIVE`, `HEALTH_READY` and `METRICS`. A context manager."""

    def __init__(self, probes: Probes, host: str, port: int) -> None:
        self._server = Server((host, port), _handler(probes))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2)


class Server(ThreadingHTTPServer):
    """A thread a caller, none of which outlives the process or is waited for."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that has hung up meanwhile, as on a process that was frozen, is no fault of ours."""
        if not isinstance(sys.exception(), ConnectionError):
            logger.exception("an answer failed")


def _handler(probes: Probes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # a client that sends nothing must not hold a thread

        def do_GET(self) -> None:
            if self.path == contract.HEALTH_LIVE:
                self._probe(probes.live())
            elif self.path == contract.HEALTH_READY:
                self._probe(probes.ready())
            elif self.path == contract.METRICS:
                page, content_type = probes.metrics(self.headers.get("accept", ""))
                self._send(200, content_type, page)
            else:
                self._send(404, "text/plain", b"not found\n")

        def _probe(self, answer: Answer) -> None:
            body = {"status": "failing" if answer.reason else "ok", "reason": answer.reason, "detail": answer.detail}
            self._send(503 if answer.reason else 200, "application/json", json.dumps(body).encode())

        def _send(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class' name)
            """Probes come every few seconds; they are no news."""

    return Handler
