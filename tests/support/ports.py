"""Ports for servers that the tests start."""

import itertools
import os
import random
import socket

_PORTS_EACH = 1000
_FIRST_PORT = 12_000 + _PORTS_EACH * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 16)
_numbers = itertools.count(random.SystemRandom().randrange(_PORTS_EACH))


def free_port() -> int:
    """A port that nothing uses, on any address, and that nobody else takes before it is listened on.

    Below those that the kernel deals out to whoever asks for any; each process of pytest-xdist has a range of its own,
    and begins anywhere in it, as there may be two runs on one machine.
    """
    for number in itertools.islice(_numbers, _PORTS_EACH):
        port = _FIRST_PORT + number % _PORTS_EACH
        with socket.socket() as probe:
            try:
                probe.bind(("", port))  # every address: replicas listen on several of loopback's
            except OSError:
                continue
            return port
    raise AssertionError(f"no port is free from {_FIRST_PORT} on")
