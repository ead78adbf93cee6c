"""Asks every replica every second how it is, and acts on what that means for what already runs there.

Knows the health port and its page; what a page means is decided in vitals. A replica is asked over one connection
that is kept.
"""

import asyncio
import errno
import logging
import random
from collections.abc import Iterable
from typing import Final

import aiohttp
import msgspec

from ryzanstein_gateway.fleet import Fleet
from ryzanstein_gateway.metrics import Metrics
from ryzanstein_gateway.replica_state import ReplicaState
from ryzanstein_gateway.vitals import Outcome, Status
from ryzanstein_worker.contract import HEALTH_STATUS

TIMEOUT_SECONDS: Final = 1.0
UNREADY_ROUNDS: Final = 4
"""Replicas that Kubernetes calls not ready are asked in one of so many rounds: what they say of their accelerator."""
_JITTER_SECONDS: Final = 0.1
_AT_ONCE: Final = 128
_LATE_SECONDS: Final = 0.25
"""Where this process itself was held up for so long, an answer that did not come in time says nothing."""
_LOOK_SECONDS: Final = 10.0
"""How often replicas are compared with each other."""
_MOST_BYTES: Final = 64 * 1024
"""A page tells of each rank, some 80 bytes."""
_BROKEN_OFF: Final = frozenset({errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE})
_OUR_OWN: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""This process has no descriptor, port or memory left: that says nothing about a replica."""

_log = logging.getLogger(__name__)


class Checker:
    """One for the process; `run` never returns."""

    def __init__(self, fleet: Fleet, metrics: Metrics, seconds: float) -> None:
        self._fleet = fleet
        self._metrics = metrics
        self._seconds = seconds
        self._decoder = msgspec.json.Decoder(Status)
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._rounds = 0

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
        await asyncio.gather(*(self._check(session, one) for one in self._to_check()))

    def _to_check(self) -> Iterable[ReplicaState]:
        yield from self._fleet.to_check()
        if self._rounds % UNREADY_ROUNDS == 0:
            yield from self._fleet.unready_to_check()
        self._rounds += 1

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
            if replica.ready:
                self._metrics.checks_failed.labels(found.value).inc()
            replica.missed(found)
            _log.debug("the health page of %s: %s", replica.endpoint.host, found.value)

    async def _ask(self, session: aiohttp.ClientSession, replica: ReplicaState) -> Status | Outcome | None:
        """The page, or why there is none; None where that is no fault of the replica's."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        url = f"http://{replica.endpoint.host}:{replica.health_port}{HEALTH_STATUS}"
        try:
            async with session.get(url, allow_redirects=False) as response:
                body = await _read(response)
                return self._decoder.decode(body) if response.status == 200 else Outcome.BROKEN
        except TimeoutError:
            return None if loop.time() - began > TIMEOUT_SECONDS + _LATE_SECONDS else Outcome.FAILED
        except aiohttp.ClientConnectorError as error:
            return _unconnected(error.os_error)
        except OSError as error:
            return Outcome.BROKEN if error.errno in _BROKEN_OFF else Outcome.FAILED
        except (aiohttp.ClientError, msgspec.MsgspecError):
            return Outcome.BROKEN


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, as much of it as a page may have: it need not come in one piece."""
    body = b""
    while len(body) < _MOST_BYTES and (piece := await response.content.read(_MOST_BYTES - len(body))):
        body += piece
    return body


def _unconnected(error: OSError) -> Outcome | None:
    if isinstance(error, ConnectionRefusedError):
        return Outcome.REFUSED
    return None if error.errno in _OUR_OWN else Outcome.FAILED
