"""Probes and metrics on their own port and thread, so that a busy event loop can neither hide nor fake them.

Knows two questions (alive, ready) as functions that any thread may call, and a metrics registry.
"""

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.registry import Collector

from ryzanstein_worker.contract import HEALTH_LIVE, HEALTH_READY, METRICS

STUCK_SECONDS: Final = 15.0
"""An event loop that has not turned for so long will not turn again."""

Probe = Callable[[], str]
"""Empty when all is well, else the reason why not."""


class Heartbeat:
    """Stamped by the event loop, read by the probe's thread."""

    def __init__(self) -> None:
        self._beat = time.monotonic()

    def beat(self) -> None:
        """The loop turns."""
        self._beat = time.monotonic()

    def __call__(self) -> str:
        """Why the process is not alive, or nothing."""
        return "the event loop is stuck" if time.monotonic() - self._beat > STUCK_SECONDS else ""


class HealthServer:
    """Serves /health/live, /health/ready and /metrics from a daemon thread."""

    def __init__(self, host: str, port: int, *, live: Probe, ready: Probe, registry: Collector) -> None:
        answers: dict[str, Callable[[str], tuple[int, str, bytes]]] = {
            HEALTH_LIVE: lambda accept: _probed(live()),
            HEALTH_READY: lambda accept: _probed(ready()),
            METRICS: lambda accept: _page(registry, accept),
        }

        class Handler(_Handler):
            routes = answers

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _page(registry: Collector, accept: str) -> tuple[int, str, bytes]:
    """Prometheus' text format, or OpenMetrics for a scraper that asks for it: only the latter has exemplars. A header
    that is nonsense asks for nothing.
    """
    try:
        encode, content_type = choose_encoder(accept)
    except TypeError:  # the library compares a version that is none with one that is
        encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
    return 200, content_type, encode(registry)


def _probed(reason: str) -> tuple[int, str, bytes]:
    return (503 if reason else 200), "text/plain; charset=utf-8", (reason or "ok").encode() + b"\n"


class _Handler(BaseHTTPRequestHandler):
    routes: dict[str, Callable[[str], tuple[int, str, bytes]]]
    timeout = 5  # a prober that says nothing does not keep its thread

    def do_GET(self) -> None:
        """Answer one of the paths, 404 for the rest."""
        answer = self.routes.get(self.path.partition("?")[0])
        status, content_type, body = (
            answer(self.headers.get("accept", "")) if answer else (404, "text/plain; charset=utf-8", b"not found\n")
        )
        self.send_response_only(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """A probe a second is nothing to log."""
