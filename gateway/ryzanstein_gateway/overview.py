"""What the operator knows of the services, for the page: asked for only while somebody looks, and rarely.

Knows the outline of the answer to GET contract.OVERVIEW_PATH; what it says of each service is passed on as it came, so
that an operator of another version loses nothing. An operator that is away or slow keeps nobody waiting for long.
"""

import asyncio
import time
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from ryzanstein_gateway.operators import Operators, open_session
from ryzanstein_worker.contract import DEFAULT_KEY_SET, OVERVIEW_PATH

FRESH_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 1.5
"""How long the first who looks waits, also the first after a while; others are shown what was heard before."""
STALE_SECONDS: Final = 10.0
"""What is older is not shown any more."""
MOST_BYTES: Final = 9 * 1024 * 1024
_SHARE: Final = 50
"""Reading a long answer takes at most a fiftieth of the time."""
_SERVICES_A_TURN: Final = 32


class Operator(msgspec.Struct, frozen=True):
    """Who has answered."""

    version: str = ""
    identity: str = ""
    time: str = ""


class Outline(msgspec.Struct, frozen=True):
    """As much of a service as the gateway needs to know."""

    namespace: str
    name: str
    key_sets: tuple[str, ...] = (DEFAULT_KEY_SET,)


class _Answer(msgspec.Struct, frozen=True):
    services: tuple[msgspec.Raw, ...]
    operator: Operator = Operator()
    truncated: bool = False


class Overview(msgspec.Struct, frozen=True):
    """What is known now. `trouble`: a sentence where the operator could not be heard; then the rest is empty."""

    trouble: str = ""
    operator: Operator = Operator()
    truncated: bool = False
    services: dict[tuple[str, str], tuple[Outline, msgspec.Raw]] = {}


NO_OPERATOR: Final = Overview("This gateway was told of no operator.")
UNHEARD: Final = Overview("No operator answers.")
_ANSWER: Final = msgspec.json.Decoder(_Answer)
_OUTLINE: Final = msgspec.json.Decoder(Outline)


class Reader:
    """One for the process."""

    def __init__(self, operators: Operators) -> None:
        self._operators = operators
        self._known, self._heard_at, self._again_at = UNHEARD, 0.0, 0.0
        self._ask: asyncio.Task[None] | None = None

    async def now(self) -> Overview:
        """What the operator says, some seconds old at most."""
        if not self._operators:
            return NO_OPERATOR
        if self._ask is None and time.monotonic() >= self._again_at:
            self._ask = asyncio.create_task(self._refresh(), name="ask for the overview")
        if self._ask is not None and self._is_stale():
            await asyncio.wait([self._ask], timeout=PATIENCE_SECONDS)
        return UNHEARD if self._is_stale() else self._known

    async def close(self) -> None:
        """Ask no more."""
        if self._ask is not None:
            self._ask.cancel()
            await asyncio.gather(self._ask, return_exceptions=True)

    def _is_stale(self) -> bool:
        """Whether nothing is known that may be shown: never heard, or nobody has looked for a while."""
        return bool(self._known.trouble) or time.monotonic() - self._heard_at >= STALE_SECONDS

    async def _refresh(self) -> None:
        pause = FRESH_SECONDS
        try:
            body = await self._fetch()
            if body is not None:
                began = time.perf_counter()
                self._known, self._heard_at = await read(body), time.monotonic()
                pause = max(pause, _SHARE * (time.perf_counter() - began))
        except (OSError, aiohttp.ClientError, msgspec.MsgspecError):  # a TimeoutError is an OSError
            pass
        finally:
            self._again_at, self._ask = time.monotonic() + pause, None

    async def _fetch(self) -> bytearray | None:
        """The answer of the one that leads: the others say 503."""
        found = await self._operators.find()
        async with open_session() as session:
            calls = [_get(session, url.with_path(OVERVIEW_PATH), found.headers) for url in found.urls]
            answers = await asyncio.gather(*calls, return_exceptions=True)
        return next((answer for answer in answers if isinstance(answer, bytearray)), None)


async def read(body: bytes | bytearray) -> Overview:
    """The answer. Raises msgspec.MsgspecError; a service that cannot be read is left out. Gives way to requests in
    between: a long one takes as much time as many tokens."""
    answer = _ANSWER.decode(body)
    services = {}
    for number, raw in enumerate(answer.services, 1):
        if number % _SERVICES_A_TURN == 0:
            await asyncio.sleep(0)
        try:
            one = _OUTLINE.decode(raw)
        except msgspec.MsgspecError:
            continue
        services[one.namespace, one.name] = (one, msgspec.Raw(bytes(raw)))
    return Overview("", answer.operator, answer.truncated, services)


async def _get(session: aiohttp.ClientSession, url: URL, headers: dict[str, str]) -> bytearray | None:
    async with session.get(url, headers=headers, allow_redirects=False) as answer:
        if answer.status != 200:
            return None
        body = bytearray()  # bytes would be copied with each piece: a fifth of a second for the longest answer
        while piece := await answer.content.read(65_536):
            body += piece
            if len(body) > MOST_BYTES:
                return None
        return body
