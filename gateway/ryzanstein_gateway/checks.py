"""Asks every replica every second how it is, and acts on what that means for what already runs there.

Knows the health port and its page; what a page means is decided in vitals. A replica is asked over one connection
that is kept.
"""

import asyncio
import logging
import random
from typing import Final

import aiohttp
import msgspec

from ryzanstein_gateway.fleet import Fleet
from ryzanstein_gateway.metrics import Metrics
from ryzanstein_gateway.replica_state import ReplicaState
from ryzanstein_gateway.vitals import Outcome, Status
from ryzanstein_worker.contract import HEALTH_STATUS

TIMEOUT_SECONDS: Final = 1.0
_JITTER_SECONDS: Final = 0.1
_AT_ONCE: Final = 128
_LATE_SECONDS: Final = 0.25
"""Where this process itself was held up for so long, an answer that did not come in time says nothing."""
_LOOK_SECONDS: Final = 10.0
"""How often replicas are compared with each other."""
_MOST_BYTES: Final = 16 * 1024

_log = logging.getLogger(__name__)


class Checker:
    """One for the process; `run` never returns."""

    def __init__(self, fleet: Fleet, metrics: Metrics, seconds: float) -> None:
        self._fleet = fleet
        self._metrics = metrics
        self._seconds = seconds
        self._decoder = msgspec.json.Decoder(Status)
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        """Check, for ever: a round every `seconds`, or as long as the slowest check takes."""
        connector = aiohttp.TCPConnector(limit=0, use_dns_cache=False, keepalive_timeout=4 * self._seconds)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        ) as session:
            loop = asyncio.get_running_loop()
            look_at = loop.time() + _LOOK_SECONDS
            while True:
                due = loop.time() + self._seconds
                try:
                    await self._round(session)
                    self._give_up_stalled()
                    if loop.time() >= look_at:
                        look_at = loop.time() + _LOOK_SECONDS
                        self._metrics.ejections.inc(self._fleet.eject_outliers())
                except Exception:  # without checks a dead replica would be chosen for ever
                    _log.exception("a round of health checks failed")
                await asyncio.sleep(max(0.0, due - loop.time()))

    async def _round(self, session: aiohttp.ClientSession) -> None:
        await asyncio.gather(*(self._check(session, one) for one in self._fleet.to_check()))

    def _give_up_stalled(self) -> None:
        if stalled := self._fleet.give_up_stalled():
            _log.warning("took %d requests from replicas that show no sign of life", stalled)

    async def _check(self, session: aiohttp.ClientSession, replica: ReplicaState) -> None:
        await asyncio.sleep(random.uniform(0, _JITTER_SECONDS))
        async with self._gate:
            found = await self._ask(session, replica)
        if isinstance(found, Status):
            self._fleet.told(replica, found)
        elif found is not None:
            self._metrics.checks_failed.labels(found.value).inc()
            replica.missed(found)

    async def _ask(self, session: aiohttp.ClientSession, replica: ReplicaState) -> Status | Outcome | None:
        """The page, or why there is none; None where that is no fault of the replica's."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        url = f"http://{replica.endpoint.host}:{replica.health_port}{HEALTH_STATUS}"
        try:
            async with session.get(url, allow_redirects=False) as response:
                body = await response.content.read(_MOST_BYTES)
                return self._decoder.decode(body) if response.status == 200 else Outcome.FAILED
        except aiohttp.ClientConnectorError as error:
            return Outcome.REFUSED if isinstance(error.os_error, ConnectionRefusedError) else Outcome.FAILED
        except (aiohttp.ClientError, OSError, msgspec.MsgspecError):
            # TimeoutError is an OSError.
            return None if loop.time() - began > TIMEOUT_SECONDS + _LATE_SECONDS else Outcome.FAILED
