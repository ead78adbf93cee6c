"""Answers the questions of this pod's ranks to the group's table, which the parent has or passes on."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from ryzanstein_worker.parallel.keyvalue import Answer, Ask
from ryzanstein_worker.parallel.messages import ChannelClosedError, FrameCodec
from ryzanstein_worker.parallel.streams import StreamChannel


async def serve_store(sock: socket.socket, answer: Callable[[Ask], Awaitable[Answer]]) -> None:
    """Until the rank goes. A rank asks one thing at a time."""
    codec: FrameCodec[Answer, Ask] = FrameCodec(Ask)
    channel = await StreamChannel.open(sock, codec)
    try:
        while True:
            channel.post(await answer(await channel.receive()))
    except ChannelClosedError:
        pass
    finally:
        channel.close()


def serve_stores(
    stores: dict[int, socket.socket], answer: Callable[[int, Ask], Awaitable[Answer]]
) -> list["asyncio.Task[None]"]:
    """One task a rank; `answer` gets the rank as well."""

    def of(rank: int) -> Callable[[Ask], Awaitable[Answer]]:
        return lambda ask: answer(rank, ask)

    return [asyncio.create_task(serve_store(sock, of(rank)), name=f"store {rank}") for rank, sock in stores.items()]
