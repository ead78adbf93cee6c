"""The door of a kubelet, as far as a sign of life goes: a real HTTPS responder on loopback that refuses everybody.

It can be stopped (connections are refused) and made to hang (they are taken and nothing is said), and come back on the
same port.
"""

import http.server
import ssl
import threading
import time
from pathlib import Path

from certificates import Authority, mount


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asks may hang up at any time."""


class KubeletDoor:
    """Open from its construction on. Close it. `asked` counts the questions it has answered."""

    def __init__(self, directory: Path, host: str = "127.0.0.1") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*mount(directory, Authority().pair()))
        self.host, self.port = host, 0
        self.asked = 0
        self._hangs = threading.Event()
        self._server: http.server.ThreadingHTTPServer | None = None
        self.open()

    def open(self) -> None:
        """Answer, on the port it had before if it had one."""
        self._hangs.clear()
        if self._server is not None:
            return
        self._server = _Server((self.host, self.port), self._handler())
        self._server.socket = self._context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="kubelet", daemon=True).start()

    def close(self) -> None:
        """Refuse connections, as a kubelet that is not there."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def hang(self) -> None:
        """Take connections and say nothing, as a machine that is frozen."""
        self._hangs.set()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        door = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def setup(self) -> None:
                door._wait_while_hanging()
                super().setup()

            def do_GET(self) -> None:
                door.asked += 1
                self.send_response_only(401)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class' name)
                """Nobody reads it."""

        return Handler

    def _wait_while_hanging(self) -> None:
        while self._hangs.is_set() and self._server is not None:
            time.sleep(0.05)
