#!/usr/bin/env python3
"""Forwards ports of this machine's loopback to the same ports on the loopback of a network namespace.

    forward.py --netns /run/netns/ryz --pid-file FILE 16443 8080

A socket belongs for life to the namespace it was made in: so listen first, then enter the namespace, and every
connection made from then on is made inside it. Runs until killed, or until its pid file no longer names it.
"""

import argparse
import asyncio
import ctypes
import os
import socket
import time
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_BUFFER = 256 * 1024


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies one direction; the end of the stream is passed on, so that half-closed connections work."""
    try:
        while chunk := await reader.read(_BUFFER):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


async def _connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    port = writer.get_extra_info("sockname")[1]
    try:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        writer.transport.abort()
        return
    try:
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
    finally:
        inner_writer.close()
        writer.close()


def _enter(netns: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    if libc.setns(handle, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot enter {netns}")
    os.close(handle)


def _named_in(pid_file: Path) -> bool:
    """Whether this process is still the one that is wanted; not so once the state directory was removed."""
    try:
        return pid_file.read_text() == str(os.getpid())
    except FileNotFoundError:
        return False


def _listen(port: int) -> socket.socket:
    """A listener on loopback; a predecessor that is about to end gets a moment to let go of the port."""
    deadline = time.monotonic() + 5
    while True:
        try:
            return socket.create_server(("127.0.0.1", port), backlog=512)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


async def _serve(listeners: list[socket.socket], pid_file: Path) -> None:
    servers = [await asyncio.start_server(_connection, sock=listener) for listener in listeners]
    while _named_in(pid_file):  # noqa: ASYNC110 - the file is another process's to remove
        await asyncio.sleep(1)
    for server in servers:
        server.close()


def main() -> None:
    """Reads the arguments and serves."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--netns", type=Path, required=True)
    parser.add_argument("--pid-file", type=Path, required=True)
    parser.add_argument("ports", type=int, nargs="+")
    options = parser.parse_args()
    listeners = [_listen(port) for port in options.ports]
    _enter(options.netns)
    # Written last: who reads it knows that the ports listen.
    spare = options.pid_file.with_suffix(".new")
    spare.write_text(str(os.getpid()))
    os.replace(spare, options.pid_file)
    asyncio.run(_serve(listeners, options.pid_file))


if __name__ == "__main__":
    main()
