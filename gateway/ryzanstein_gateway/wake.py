"""Tells the operator that requests wait and no replica is there to take them.

One authenticated POST, at once, then one each few seconds while they wait; all requests for a service are told of
together. Knows the operator's address and key; knows nothing of queues. That nobody hears it costs no request anything.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from ryzanstein_gateway.routes import Route
from ryzanstein_worker.contract import DEMAND_PATH

INTERVAL_SECONDS: Final = 3.0
CALL_SECONDS: Final = 2.0
_MAX_KEY_BYTES: Final = 1024

_log = logging.getLogger(__name__)


class Demand(msgspec.Struct, frozen=True):
    """What is told. `service` is the Service that the route names, `sender` this process."""

    namespace: str
    service: str
    waiting: int
    sender: str


class Waker:
    """One for the process. Without a URL it tells nobody."""

    def __init__(self, url: str, key_file: Path | None, sender: str, *, interval: float = INTERVAL_SECONDS) -> None:
        self._url = URL(url) if url and key_file else None
        self._key_file = key_file
        self._sender = sender
        self._interval = interval
        self._calls: dict[tuple[str, str], asyncio.Task[None]] = {}

    def call(self, route: Route, waiting: Callable[[], int]) -> None:
        """Tell now of a service without a replica, and again while `waiting` gives more than 0. Returns at once."""
        service = (route.namespace, route.service)
        if self._url is None or service in self._calls:
            return
        task = asyncio.create_task(self._keep_telling(service, waiting), name=f"wake {route.service}")
        self._calls[service] = task
        task.add_done_callback(lambda _: self._calls.pop(service, None))

    async def close(self) -> None:
        """Stop telling."""
        tasks = list(self._calls.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_telling(self, service: tuple[str, str], waiting: Callable[[], int]) -> None:
        # Once even if the first is gone again meanwhile: it did wait, and there was no replica. And no sooner again.
        number = max(1, waiting())
        while number:
            await self._tell(Demand(*service, number, self._sender))
            await asyncio.sleep(self._interval)
            number = waiting()

    async def _tell(self, demand: Demand) -> None:
        """Tell every operator that there is: the one that leads acts and says 200, the others keep it in mind."""
        try:
            answers = await self._post_to_all(demand)
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            answers = [f"{type(error).__name__}: {error}"]
        if 200 not in answers:
            _log.warning("no leading operator heard that requests wait for %s: %s", demand.service, answers)

    async def _post_to_all(self, demand: Demand) -> list[object]:
        assert self._url is not None
        assert self._key_file is not None
        key = await asyncio.to_thread(_read_key, self._key_file)  # anew each time: a Secret may be exchanged
        port = self._url.port or 80
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CALL_SECONDS):
            found = await loop.getaddrinfo(self._url.host, port, type=socket.SOCK_STREAM)
        addresses = sorted({str(entry[4][0]) for entry in found})
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        async with aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=False) as session:
            posts = [_post(session, URL.build(scheme="http", host=one, port=port), demand) for one in addresses]
            return list(await asyncio.gather(*posts))


async def _post(session: aiohttp.ClientSession, url: URL, demand: Demand) -> object:
    with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
        body = msgspec.json.encode(demand)
        async with session.post(url.with_path(DEMAND_PATH), data=body, allow_redirects=False) as answer:
            return answer.status
    return f"{url.host} cannot be reached"


def _read_key(path: Path) -> str:
    """The shared key. Raises OSError; one that cannot stand in a header is none."""
    with path.open("rb") as file:
        key = file.read(_MAX_KEY_BYTES).decode("ascii", "replace").strip()
    if not key or not key.isprintable() or not key.isascii():
        raise OSError(f"{path} holds no key")
    return key
