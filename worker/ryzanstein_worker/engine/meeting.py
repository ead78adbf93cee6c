"""Where the pods of a group meet: node rank 0's address on the network, to listen on or to call."""

import asyncio
import errno
import random
import socket
from collections.abc import Sequence

from ryzanstein_worker.config import GroupConfig
from ryzanstein_worker.errors import ConfigError
from ryzanstein_worker.parallel.door import MOST_WAITING, tune
from ryzanstein_worker.parallel.handshake import introduce
from ryzanstein_worker.parallel.messages import ChannelClosedError
from ryzanstein_worker.parallel.seal import Seal

CALL_SECONDS = 5.0
"""For one call: to resolve, connect, and show the key."""
_WILDCARDS = ("", "0.0.0.0", "::")
_LEAST_PAUSE, _MOST_PAUSE = 0.1, 0.5

Address = tuple[socket.AddressFamily, tuple[str, int]]


async def pause() -> None:
    """Before the next try; pods that lost each other together must not knock together."""
    await asyncio.sleep(random.uniform(_LEAST_PAUSE, _MOST_PAUSE))


async def listen(group: GroupConfig) -> socket.socket:
    """A listening socket on the one address that the other pods call. Waits while the name is not known yet.

    Raises ConfigError where that can never be.
    """
    while True:
        try:
            addresses = await _resolve(_own_name(group), group.master_port)
            return _listen_on(addresses[0])
        except socket.gaierror:
            await pause()
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                where = f"{group.master_addr} port {group.master_port}"
                raise ConfigError(f"Cannot listen for the group on {where}: {error.strerror}.") from None
            await pause()  # the name may still be that of the pod before this one


async def call(group: GroupConfig, key: bytes, at: Address | None = None) -> tuple[socket.socket, Seal]:
    """A connection to node rank 0, which has shown the key. Raises ChannelClosedError with what stood in the way.

    at: where it is known to be; None: where its name leads now.
    """
    try:
        async with asyncio.timeout(CALL_SECONDS):
            found = [at] if at is not None else await _resolve(group.master_addr, group.master_port)
            sock = await _connect(found)
            try:
                return sock, await introduce(sock, key)
            except BaseException:
                sock.close()
                raise
    except TimeoutError:
        raise ChannelClosedError(f"no answer in {CALL_SECONDS:g} s") from None
    except socket.gaierror as error:
        raise ChannelClosedError(f"its name is not known: {error.strerror}") from None
    except OSError as error:
        raise ChannelClosedError(f"{error.strerror}") from None


def _own_name(group: GroupConfig) -> str:
    if group.host not in _WILDCARDS:
        return group.host
    own = socket.gethostname()
    # In a pod its own name stands in /etc/hosts, from the start and with no address but its own.
    return own if group.master_addr.partition(".")[0] == own else group.master_addr


async def _resolve(name: str, port: int) -> Sequence[Address]:
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [(family, (str(address[0]), port)) for family, _, _, _, address in found]


def _listen_on(address: Address) -> socket.socket:
    family, where = address
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(MOST_WAITING)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


async def _connect(addresses: Sequence[Address]) -> socket.socket:
    """To the first that takes it. Raises the last's OSError."""
    failure: OSError | None = None
    for family, where in addresses:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            tune(sock)
            await asyncio.get_running_loop().sock_connect(sock, where)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    assert failure is not None
    raise failure
