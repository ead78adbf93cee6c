"""The log's level while the process runs: SIGUSR1 makes it debug, SIGUSR2 what was configured, here and in the ranks.

The default action of both signals is the process' death. So they are blocked before anything else is done, what starts
a child starts it with them blocked, and a thread takes them one by one: nothing is interrupted, and one that comes
early waits. Only our own loggers change: what libraries say at debug, nobody has read for keys and prompts.
"""

import logging
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SIGNALS: Final = (signal.SIGUSR1, signal.SIGUSR2)
OWN: Final = ("ryzanstein_worker", "ryzanstein")
"""Loggers that are ours."""

_log = logging.getLogger(__name__)


def block() -> None:
    """Hold the signals back from this thread and all that it starts from now on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


@contextmanager
def blocked() -> Iterator[None]:
    """The same while the context lasts: a child that is started in it lives until it listens."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def set_level(level: int) -> None:
    """Of our own loggers this one; of others no more than info."""
    logging.getLogger().setLevel(max(level, logging.INFO))
    for name in OWN:
        logging.getLogger(name).setLevel(level)


class Switch:
    """Of one process. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[bytes]] = set()
        self._configured = logging.INFO
        self._level = logging.INFO

    def listen(self, configured: int) -> None:
        """Take the signals from now on; `configured` is the level that is in force."""
        block()
        self._configured = self._level = configured
        threading.Thread(target=self._listen, name="log level", daemon=True).start()

    def adopt(self, child: subprocess.Popen[bytes]) -> None:
        """Pass the signals on to this child as well, and the level if it has been changed. It must have been started
        with the signals blocked."""
        with self._lock:
            self._children.add(child)
            if self._level != self._configured:
                child.send_signal(signal.SIGUSR1)

    def disown(self, child: subprocess.Popen[bytes]) -> None:
        """It has ended."""
        with self._lock:
            self._children.discard(child)

    def turn(self, number: int) -> None:
        """What a signal asks for; one line in the log where it changes anything."""
        level = logging.DEBUG if number == signal.SIGUSR1 else self._configured
        with self._lock:
            before, self._level = self._level, level
            for child in self._children:
                child.send_signal(number)
        if level == before:
            return
        set_level(min(level, before, logging.INFO))  # for the line to be seen, whatever the levels are
        _log.info("the log's level is changed", extra={"from": _name(before), "to": _name(level)})
        set_level(level)

    def _listen(self) -> None:
        while True:
            self.turn(signal.sigwait(SIGNALS))


def _name(level: int) -> str:
    return logging.getLevelName(level).lower()


SWITCH: Final = Switch()
"""This process'."""
