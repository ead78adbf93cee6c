"""Tells every operator how this gateway sees the replicas: at once when something changed, else every few seconds.

One process of a pod does. Each operator is told on its own: one that is slow or gone keeps no news from the others, and
none has two messages under way. That nobody hears it costs no request anything. Decides nothing: see views.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from yarl import URL

from ryzanstein_gateway.endpoints import ServiceKey
from ryzanstein_gateway.fleet import Fleet
from ryzanstein_gateway.operators import Found, Operators, open_session, post
from ryzanstein_gateway.traffic import Traffic
from ryzanstein_gateway.views import Looks, View, encode
from ryzanstein_worker.contract import VIEWS_PATH

PAUSE_SECONDS: Final = 0.25
"""Between looks, so that there are at most four messages a second."""
INTERVAL_SECONDS: Final = 4.0
"""Without news, as often as this; and so often the operators' addresses and the key are looked up."""
RETRY_SECONDS: Final = 1.0
STANDBY_SECONDS: Final = 1.5
WARN_SECONDS: Final = 60.0
_SERVICES_A_TURN: Final = 64
"""So many are looked at before others get their turn on the event loop: a fraction of a millisecond."""
_LEADS: Final = 200
_STANDS_BY: Final = 503
"""It keeps it in mind; or it leads and is busy, so it is told again soon."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Listener:
    """One operator: what it was told last, and the message under way. Times are of the loop's clock."""

    told: tuple[object, ...] | None = None
    due: float = 0.0
    """When it is told again without news."""
    not_before: float = 0.0
    call: "asyncio.Task[int | str] | None" = None
    failure: int | str = ""
    """Why it has not heard the last message; empty where it has."""

    def settle(self, now: float) -> bool:
        """Take the end of a call; whether the operator that leads has heard it."""
        if self.call is None or not self.call.done():
            return False
        answer, self.call = self.call.result(), None
        _log.debug("an operator was told how the replicas fare: %s", answer)
        self.failure = "" if answer in (_LEADS, _STANDS_BY) else answer
        if self.failure:
            self.told, self.not_before = None, now + RETRY_SECONDS
        elif answer == _STANDS_BY:
            self.due = min(self.due, now + STANDBY_SECONDS)
        return answer == _LEADS

    def wants(self, essence: tuple[object, ...], now: float) -> bool:
        """Whether it should be told now."""
        return self.call is None and now >= self.not_before and (essence != self.told or now >= self.due)


class Teller:
    """One for the pod. `not_ready`: empty once routes and endpoints are known; before, there is nothing to tell.
    `traffic`: of each service that had any, in all processes of the pod."""

    def __init__(
        self,
        operators: Operators,
        fleet: Fleet,
        sender: str,
        not_ready: Callable[[], str] = str,
        traffic: Callable[[], Mapping[ServiceKey, Traffic]] = dict,
        *,
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        self.told_at = 0.0
        """When the operator that leads last took a view: Unix seconds, 0 where none ever has."""
        self._operators, self._fleet, self._sender, self._not_ready = operators, fleet, sender, not_ready
        self._traffic = traffic
        self._interval = interval
        self._looks = Looks()
        self._listeners: dict[URL, _Listener] = {}
        self._headers: dict[str, str] = {}
        self._search: asyncio.Task[Found] | None = None
        self._search_at = self._warn_at = 0.0
        self._lost = ""
        """Why the operators' addresses are not known."""

    async def run(self) -> None:
        """Tell, for ever; at once an end where there are no operators."""
        if not self._operators:
            return
        async with open_session() as session:
            try:
                while True:
                    try:
                        if not self._not_ready():
                            await self._turn(session)
                    except Exception:  # what the operators hear must not depend on one bad look
                        _log.exception("the operators could not be told how the replicas fare")
                    await asyncio.sleep(PAUSE_SECONDS)
            finally:
                await self._hang_up()

    async def look(self) -> View:
        """All services as they are now. Gives way to requests in between."""
        self._looks.begin()
        services, traffic = [], self._traffic()
        for number, (key, listed, unready) in enumerate(self._fleet.groups(), 1):
            services.append(self._looks.service(key, listed, unready, self._fleet.now(), traffic.get(key)))
            if number % _SERVICES_A_TURN == 0:
                await asyncio.sleep(0)
        return View(self._sender, tuple(services))

    async def _turn(self, session: aiohttp.ClientSession) -> None:
        now = asyncio.get_running_loop().time()
        self._find(now)
        view = await self.look()
        essence, body = view.essence(), b""
        for url, listener in self._listeners.items():
            if listener.settle(now):
                self.told_at = time.time()
            if listener.wants(essence, now):
                body = body or encode(view)
                listener.told, listener.due = essence, now + self._interval
                words = post(session, url.with_path(VIEWS_PATH), self._headers, body)
                listener.call = asyncio.create_task(words, name=f"tell {url.host}")
        self._warn(now)

    def _find(self, now: float) -> None:
        """Follow where the operators are, without waiting for it."""
        if self._search is not None and self._search.done():
            search, self._search = self._search, None
            try:
                found = search.result()
            except OSError as error:  # a TimeoutError is one. Who was known may still be there
                self._lost, self._search_at = f"{type(error).__name__}: {error}", now + RETRY_SECONDS
            else:
                self._lost, self._headers = "", found.headers
                gone = [one for url, one in self._listeners.items() if url not in found.urls]
                self._listeners = {url: self._listeners.get(url) or _Listener() for url in found.urls}
                _cancel(gone)
        if self._search is None and now >= self._search_at:
            self._search_at = now + self._interval
            self._search = asyncio.create_task(self._operators.find(), name="find the operators")

    def _warn(self, now: float) -> None:
        listeners = self._listeners.values()
        why = [one.failure for one in listeners if one.failure] or ([self._lost] if self._lost else [])
        if why and len(why) >= len(listeners) and now >= self._warn_at:
            self._warn_at = now + WARN_SECONDS
            _log.warning("no operator hears how the replicas fare: %s", why)

    async def _hang_up(self) -> None:
        tasks = _cancel(self._listeners.values())
        if self._search is not None:
            self._search.cancel()
            tasks.append(self._search)
        await asyncio.gather(*tasks, return_exceptions=True)


def _cancel(listeners: Iterable[_Listener]) -> "list[asyncio.Task[Any]]":
    calls: list[asyncio.Task[Any]] = [one.call for one in listeners if one.call is not None]
    for call in calls:
        call.cancel()
    return calls
