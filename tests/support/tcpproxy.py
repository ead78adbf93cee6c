"""A TCP proxy on loopback that can let connections die silently: no byte passes any more, and nothing is closed."""

import contextlib
import selectors
import socket
import threading
from typing import Self


class TcpProxy:
    """Passes bytes to a local port. A context manager."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._swallowed: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def swallow(self) -> None:
        """From now on the connections that stand pass nothing; new ones do."""
        self._swallowed |= {end for pair in list(self._pairs) for end in pair}

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        ends = [self._listener, *(end for pair in self._pairs for end in pair)]
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for end in ends:  # only now: a socket that is closed while a thread selects on it never wakes it
            end.close()

    def _start(self, target: object, *arguments: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            self._pairs.append((client, server))
            self._start(self._pass, client, server)

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        with selectors.DefaultSelector() as ready, contextlib.suppress(OSError, ValueError):
            for end in other:
                ready.register(end, selectors.EVENT_READ, end)
            while True:
                for key, _ in ready.select():
                    end = key.data
                    data = end.recv(65536)
                    if end in self._swallowed:
                        if not data:
                            ready.unregister(end)
                        continue
                    if not data:
                        other[end].shutdown(socket.SHUT_WR)
                        ready.unregister(end)
                    else:
                        other[end].sendall(data)
                if not ready.get_map():
                    return
