"""How the head of a group is called: by its name at first, and then where it was found."""

import asyncio
import socket

import pytest

from ryzanstein_worker.config import GroupConfig
from ryzanstein_worker.engine.meeting import call
from ryzanstein_worker.parallel.handshake import admit
from ryzanstein_worker.parallel.messages import ChannelClosedError

KEY = b"k" * 32
NAMELESS = GroupConfig(node_rank=1, master_addr="head.invalid", key_file="")


async def test_who_was_found_once_is_called_without_asking_for_the_name_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        async def answer() -> None:
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            sock.setblocking(False)
            with sock:
                await admit(sock, KEY)

        answering = asyncio.create_task(answer())
        async with asyncio.timeout(30):
            sock, _ = await call(NAMELESS, KEY, (socket.AF_INET, ("127.0.0.1", listener.getsockname()[1])))
            sock.close()
            await answering


async def test_an_unknown_name_is_told() -> None:
    with pytest.raises(ChannelClosedError, match=r"name is not known|no answer"):
        await call(NAMELESS, KEY)
