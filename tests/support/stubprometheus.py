"""A server on loopback that speaks Prometheus' HTTP API and gives the numbers that a test sets.

Its faults are real ones: silence, refusals, bodies that are no answer. What the queries mean is tested with a real
Prometheus, not with this.
"""

import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs


@dataclass(frozen=True)
class Fault:
    """Instead of an answer: a status and a body; where it is silent none at all, for as long as the stub serves."""

    status: int = 200
    body: bytes = b""
    location: str = ""
    silent: bool = False


@dataclass
class Stub:
    """What is asked and what is answered. value: of each target, with `replicas` reporting and `gateways` scraped;
    None: no such series. active: how many requests there lately were."""

    value: float | str | None = 0.0
    replicas: int = 1
    gateways: int = 1
    active: float = 0.0
    fault: Fault | None = None
    url: str = ""
    queries: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most: int = 0
    """The most that were under way at one time."""
    over: threading.Event = field(default_factory=threading.Event)
    """That this one serves no more."""
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, query: str) -> bytes:
        value = self.active if "increase(" in query else self.value
        parts: dict[str, object] = {
            "value": value,
            "replicas": self.replicas or None,
            "gateways": self.gateways or None,
        }
        if '"part"' not in query:
            return vector([({}, value)] if value is not None else [])
        return vector([({"part": name}, number) for name, number in parts.items() if number is not None])

    @contextmanager
    def under_way(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1


def vector(series: list[tuple[Mapping[str, str], Any]]) -> bytes:
    """An instant query's answer."""
    result = [{"metric": dict(labels), "value": [1767323045.0, str(value)]} for labels, value in series]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


@contextmanager
def stub_prometheus(tls: ssl.SSLContext | None = None) -> Iterator[Stub]:
    """One that serves until the end, at `url`."""
    stub = Stub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(stub))
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    stub.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.over.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def _handler(stub: Stub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            stub.queries.append(form["query"][0])
            stub.headers.append({name.lower(): value for name, value in self.headers.items()})
            stub.times.append(time.monotonic())
            fault = stub.fault
            with stub.under_way():
                if fault and fault.silent:
                    stub.over.wait()
                self._answer(fault, stub.answer(form["query"][0]) if self.path == "/api/v1/query" else b"")

        def _answer(self, fault: Fault | None, body: bytes) -> None:
            status = fault.status if fault else 200 if body else 404
            body = fault.body if fault else body
            try:
                self.send_response_only(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                if fault and fault.location:
                    self.send_header("Location", fault.location)
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                self.close_connection = True  # whoever asked has given up

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class' name)
            """A test looks at the stub itself."""

    return Handler
