"""Where gateways say that requests wait for a replica, and how they see the replicas: authenticated POSTs, in threads.
And where they ask for the overview that their page shows.

Knows HTTP and the shared key; what follows from it is the loop's business. Takes nothing else from anybody: what comes
without the key is not read.
"""

import hashlib
import hmac
import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final, Self

from ryzanstein_operator.gateway_view import GatewayView, read_view
from ryzanstein_operator.health import Server
from ryzanstein_worker import contract

logger = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 4096
MAX_VIEW_BYTES: Final = 1024 * 1024
MAX_KEY_BYTES: Final = 1024
MAX_CONNECTIONS: Final = 32
MAX_WAITING: Final = 1_000_000_000
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}(-[0-9a-f]{32})(-[0-9a-f]{16})-[0-9a-f]{2}")


class Heard(IntEnum):
    """What a gateway is answered."""

    LEADING = 200
    UNKNOWN = 404
    STANDBY = 503


@dataclass(frozen=True)
class Word:
    """What a gateway says. service: the InferenceService's name. sender: one gateway process. traceparent: W3C's, of a
    request that waits, where it is traced."""

    namespace: str
    service: str
    waiting: int
    sender: str
    traceparent: str = ""


Hear = Callable[[Word], Heard]
"""Asked from the server's threads; may raise TimeoutError."""
HearView = Callable[[GatewayView], Heard]
"""The same."""
Show = Callable[[], bytes | None]
"""JSON, or None where another process leads. The same."""


@dataclass(frozen=True)
class _Door:
    """What may be posted to one path: how long it may be, and what becomes of it. `take` raises ValueError for nonsense
    and TimeoutError."""

    max_bytes: int
    take: Callable[[bytes], Heard]


def read_word(body: bytes) -> Word:
    """The word in a body. Raises ValueError with a sentence."""
    try:
        said: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("The body is no JSON.") from None
    if not isinstance(said, dict):
        raise ValueError("The body is no object.")
    texts = [said.get(name) for name in ("namespace", "service", "sender")]
    if not all(isinstance(text, str) and 0 < len(text) <= 253 for text in texts):
        raise ValueError("namespace, service and sender must be strings of 1 to 253 characters.")
    waiting = said.get("waiting")
    if type(waiting) is not int or not 0 < waiting <= MAX_WAITING:
        raise ValueError("waiting must be a positive integer.")
    namespace, service, sender = (str(text) for text in texts)
    traceparent = str(said.get("traceparent") or "")
    known = traceparent if _TRACEPARENT.fullmatch(traceparent) else ""
    return Word(namespace, service.removesuffix(contract.SUFFIX_WORKERS), waiting, sender, known)


def key_matches(authorization: str, key_file: Path) -> bool:
    """Whether a header brings the key that is in the file now. Without a file nobody can. Constant in time."""
    try:
        with key_file.open("rb") as file:
            key = file.read(MAX_KEY_BYTES).strip()
    except OSError:
        return False
    given = authorization.removeprefix("Bearer ").encode("utf-8", "surrogateescape")
    same = hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(key).digest())
    return bool(key) and authorization.startswith("Bearer ") and same


class Doorbell:
    """Serves `contract.DEMAND_PATH`, `contract.VIEWS_PATH` and `contract.OVERVIEW_PATH`. A context manager."""

    def __init__(
        self, hear: Hear, hear_view: HearView, key_file: Path, host: str, port: int, show: Show = lambda: None
    ) -> None:
        doors = {
            contract.DEMAND_PATH: _Door(MAX_BODY_BYTES, lambda body: hear(read_word(body))),
            contract.VIEWS_PATH: _Door(MAX_VIEW_BYTES, lambda body: hear_view(read_view(body))),
        }
        self._server = _Server((host, port), _handler(doors, show, key_file))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="doorbell", daemon=True)

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


class _Server(Server):
    """No more threads than MAX_CONNECTIONS: whoever comes beyond is hung up on, and comes again."""

    request_queue_size = 128  # beyond it the kernel lets callers wait, and they count their seconds
    address_family = socket.AF_INET

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()


def _handler(doors: Mapping[str, _Door], show: Show, key_file: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # a client that sends nothing must not hold a thread

        def do_POST(self) -> None:
            if not key_matches(self.headers.get("authorization", ""), key_file):
                self._answer(401, "A valid key is required.")
            elif (door := doors.get(self.path)) is None:
                self._answer(404, "There is nothing here.")
            else:
                self._hear(door)

        def do_GET(self) -> None:
            if not key_matches(self.headers.get("authorization", ""), key_file):
                self._answer(401, "A valid key is required.")
            elif self.path != contract.OVERVIEW_PATH:
                self._answer(404, "There is nothing here.")
            else:
                self._show()

        def _show(self) -> None:
            try:
                body = show()
            except TimeoutError:
                self._answer(503, "The operator is busy.")
                return
            if body is None:
                self._answer(Heard.STANDBY, Heard.STANDBY.name.lower())
            else:
                self._send(200, body)

        def _hear(self, door: _Door) -> None:
            length = self.headers.get("content-length", "")
            if not length.isascii() or not length.isdigit() or int(length[:9]) > door.max_bytes or len(length) > 9:
                self._answer(413, f"The body must have a length of at most {door.max_bytes} bytes.")
                return
            try:
                heard = door.take(self.rfile.read(int(length)))
            except ValueError as error:
                self._answer(400, str(error))
            except TimeoutError:
                self._answer(503, "The operator is busy.")
            else:
                self._answer(heard, heard.name.lower())

        def _answer(self, status: int, words: str) -> None:
            self._send(status, json.dumps({"message": words}).encode())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response_only(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class' name)
            """What matters is logged where it is acted on."""

    return Handler
