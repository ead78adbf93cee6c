"""On a terminal the views live: colour, fresh numbers, the last view left behind; NO_COLOR and pipes are honoured."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fakeapi import refuse
from interrupts import hear
from kubectl_world import ALL_WELL, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

PLUGIN = str(Path(sys.executable).with_name("kubectl-ryzanstein"))


class Terminal:
    """A command on a pseudo-terminal of 100 columns and 30 lines."""

    def __init__(self, *words: str, **environment: str) -> None:
        self.shown = ""
        self._master, slave = pty.openpty()
        env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        env |= {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", "LANG": "C.UTF-8", **environment}
        self._process = subprocess.Popen(
            [PLUGIN, *words], stdin=slave, stdout=slave, stderr=slave, env=env, preexec_fn=hear
        )
        os.close(slave)

    def until(self, holds: Callable[[str], bool], seconds: float = 45.0) -> str:
        """Read until what was shown since the last call holds; gives it."""
        seen, deadline = "", time.monotonic() + seconds
        while not holds(seen):
            if time.monotonic() > deadline:
                raise AssertionError(f"not shown in time:\n{seen}")
            seen += self._read(0.1)
        return seen

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C; gives the exit status and all that was shown from then on."""
        self._process.send_signal(signal.SIGINT)
        rest, deadline = "", time.monotonic() + 40
        while self._process.poll() is None and time.monotonic() < deadline:  # a full terminal would hold it up
            rest += self._read(0.1)
        status = self._process.wait(1)
        while more := self._read(0.2):
            rest += more
        os.close(self._master)
        return status, rest

    def _read(self, seconds: float) -> str:
        ready, _, _ = select.select([self._master], [], [], seconds)
        try:
            return os.read(self._master, 65536).decode(errors="replace") if ready else ""
        except OSError:  # the other side is closed
            return ""


@pytest.mark.parametrize("words", [("status", "-w"), ("top",)])
def test_a_live_view_follows_the_numbers_and_leaves_the_last_behind(cluster: World, words: tuple[str, ...]) -> None:
    pages = cluster.pages(cluster.pod(cluster.service(conditions=ALL_WELL), "chat-5d-aa"))
    terminal = Terminal(*cluster.words(*words, "--interval", "0.5"))
    try:
        # A view may come in pieces; the other screen, so that the scrollback stays as it was.
        first = terminal.until(lambda seen: "chat-5d-aa" in seen and "\x1b[32m" in seen)
        assert "\x1b[?1049h" in first
        pages.engine.running = 77
        terminal.until(lambda seen: "77" in seen)
    finally:
        status, rest = terminal.interrupt()
    assert status == 130
    assert "\x1b[?1049l" in rest
    assert "77" in rest.split("\x1b[?1049l")[1]


def test_a_live_view_says_when_it_is_not_up_to_date(cluster: World) -> None:
    cluster.pod(cluster.service(conditions=ALL_WELL), "chat-5d-aa")
    terminal = Terminal(*cluster.words("status", "-w", "--interval", "0.5"))
    try:
        terminal.until(lambda seen: "chat-5d-aa" in seen)
        cluster.api.faults.append(refuse("GET", "/pods", 403, "pods is forbidden"))
        terminal.until(lambda seen: "Not up to date" in seen and "pods is forbidden" in seen)
    finally:
        terminal.interrupt()


def test_no_color_is_honoured(cluster: World) -> None:
    cluster.pod(cluster.service(conditions=ALL_WELL), "chat-5d-aa")
    terminal = Terminal(*cluster.words("status", "-w"), NO_COLOR="1")
    try:
        text = terminal.until(lambda seen: "chat-5d-aa" in seen)
    finally:
        terminal.interrupt()
    assert "\x1b[32m" not in text


def test_a_drain_that_is_interrupted_says_what_stands(cluster: World) -> None:
    cluster.api.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}, "spec": {}})
    live = cluster.service(conditions=ALL_WELL, replicas=2)
    cluster.pod(live, "chat-5d-aa")
    cluster.pod(live, "chat-5d-bb")
    cluster.side.evict = lambda pod: (429, "Cannot evict pod")
    terminal = Terminal(*cluster.words("drain", "node/node-1"))
    try:
        terminal.until(lambda seen: "may not go yet: Cannot evict pod" in seen)
    finally:
        status, rest = terminal.interrupt()
    assert status == 130
    assert "Stopped. 0 of 2 replicas are drained. Node node-1 stays cordoned; kubectl uncordon node-1 undoes that." in (
        " ".join(rest.split())
    )
