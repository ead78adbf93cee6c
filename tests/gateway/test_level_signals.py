"""Signals for the log's level end no process and miss none, at whatever moment they come."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from gateway_process import gateway_process
from processes import until
from ryzanstein_gateway.level import OURS
from ryzanstein_gateway.member import DEBUG
from ryzanstein_gateway.processes import Parent
from ryzanstein_gateway.settings import Settings

GIVE_UP_SECONDS = 60.0
EARLY = """
import os, signal, sys

class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == "uvloop":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGUSR1)

if "ryzanstein_gateway" in sys.orig_argv:
    sys.meta_path.insert(0, Hook())
"""
"""Signals itself while the program still loads its libraries."""


@pytest.fixture
def levels() -> Iterator[None]:
    """The levels of before, afterwards."""
    before = {name: logging.getLogger(name or None).level for name in ("", *OURS)}
    yield
    for name, level in before.items():
        logging.getLogger(name or None).setLevel(level)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("processes", [1, 2])
async def test_a_signal_that_comes_while_a_process_starts_waits_for_it(tmp_path: Path, processes: int) -> None:
    (tmp_path / "sitecustomize.py").write_text(EARLY)
    async with gateway_process(
        tmp_path, RYZANSTEIN_GATEWAY_PROCESSES=str(processes), PYTHONPATH=str(tmp_path)
    ) as gateway:
        said = "the log's level is DEBUG"
        await until(lambda: said in gateway.said("INFO"), GIVE_UP_SECONDS, "it was obeyed")
        if processes > 1:
            await gateway.until_metric("ryzanstein_gateway_processes_ready", processes)
            assert (await gateway.metrics())["ryzanstein_gateway_process_restarts_total"] == 0
        assert gateway.process.returncode is None


@pytest.mark.usefixtures("levels")
def test_a_member_that_has_just_hung_up_keeps_no_other_from_hearing_of_the_level() -> None:
    async def story() -> bytes:
        parent = Parent(Settings(namespace="rz", watch_namespaces=("rz",), processes=2))
        pairs = [socket.socketpair() for _ in parent._slots]
        for slot, (ours, _) in zip(parent._slots, pairs, strict=True):
            _, slot.writer = await asyncio.open_connection(sock=ours)
        gone, stays = parent._slots
        assert gone.writer is not None
        assert stays.writer is not None
        gone.writer.close()
        await asyncio.sleep(0)
        pairs[1][1].setblocking(False)
        try:
            parent._level.debug(True)
            async with asyncio.timeout(GIVE_UP_SECONDS):
                return await asyncio.get_running_loop().sock_recv(pairs[1][1], 100)
        finally:
            stays.writer.close()
            for _, theirs in pairs:
                theirs.close()

    assert uvloop.run(story()) == f"{DEBUG}\n".encode()
