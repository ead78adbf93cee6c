"""The zygote's own process: reads orders as lines of JSON, forks an operator for each, tells of starts and ends.

One thread only, so that to fork is safe.
"""

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
from typing import Any

import aiohttp  # noqa: F401 (imported for the operators)
import kopf  # noqa: F401
import kubernetes.aio  # noqa: F401

import ryzanstein_operator.handlers.run  # noqa: F401
from ryzanstein_operator.__main__ import main


def operate(order: dict[str, Any]) -> None:
    """In the child: become an operator. Never returns."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(order["environment"])
    status = 1
    try:
        status = main(["--host", "127.0.0.1", "--port", str(order["port"])])
    finally:
        sys.stderr.flush()
        os._exit(status)


def tell(**word: int) -> None:
    sys.stdout.write(json.dumps(word) + "\n")
    sys.stdout.flush()


def reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            tell(ended=pid, status=os.waitstatus_to_exitcode(status))


def run() -> None:
    gc.collect()
    gc.freeze()
    woken, waker = socket.socketpair()
    woken.setblocking(False)
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    watched = selectors.DefaultSelector()
    watched.register(woken, selectors.EVENT_READ)
    watched.register(sys.stdin.fileno(), selectors.EVENT_READ)
    rest = b""
    while True:
        for key, _ in watched.select():
            if key.fileobj is woken:
                woken.recv(4096)
                reap()
                continue
            chunk = os.read(sys.stdin.fileno(), 65536)
            if not chunk:
                reap()
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    operate(order)
                tell(number=order["number"], started=pid)


if __name__ == "__main__":
    run()
