"""What one API key may ask of one model: requests and tokens a minute, requests at one time.

Knows where buckets and counts are kept and how they are shared; the arithmetic is in rates.py. A limit is divided by
the number of gateway pods, since those share nothing: exact when connections spread evenly, as through a Service they
nearly do, and never more than the limit in sum. The processes of one pod share theirs exactly.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ryzanstein_gateway.errors import (
    CONCURRENCY_LIMITED,
    REQUESTS_LIMITED,
    TOKENS_LIMITED,
    Refusal,
    Refused,
    retry_after,
)
from ryzanstein_gateway.exchange import Header
from ryzanstein_gateway.rates import Rate, Verdict, charge, take
from ryzanstein_gateway.routes import Route
from ryzanstein_gateway.shared_table import SharedTable, Unavailable

CONCURRENCY_RETRY_SECONDS: Final = 1.0
"""Nobody can tell when one of a key's own requests ends."""


@dataclass(slots=True)
class Ticket:
    """What a request has taken of its key's limits on a model. `leave` or `refund` it, once."""

    quota: "Quota"
    route: Route
    key: str
    estimate: int
    """Tokens that were taken before any was counted."""
    counted: bool = False
    headers: tuple[Header, ...] = ()
    """What OpenAI's API says of limits, for the reply."""

    def leave(self, tokens: int) -> None:
        """The request has ended and cost so many tokens, prompt and completion together."""
        self.quota._end(self)
        self.quota._charge(self, "tokens", self.route.tokens_per_minute, tokens - self.estimate)

    def refund(self) -> None:
        """The request was not served after all: it cost nothing."""
        self.leave(0)
        self.quota._charge(self, "requests", self.route.requests_per_minute, -1)


class Quota:
    """One for the process. `pods`: how many gateways divide the limits among them."""

    def __init__(self, table: SharedTable, pods: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._table, self._pods, self._clock = table, pods, clock
        self._owed: list[str] = []
        """Counts that could not be taken down while the table was not to be had."""

    def enter(self, route: Route, key: str, tokens: int) -> Ticket | None:
        """Take one request and `tokens` of the limits; None where the model has none. Raises Refused with 429.

        A table that cannot answer refuses nobody.
        """
        if route.requests_per_minute is route.tokens_per_minute is route.max_concurrent_requests is None:
            return None
        ticket = Ticket(self, route, key, tokens)
        self._begin(ticket)
        requests = self._take(ticket, "requests", route.requests_per_minute, 1.0)
        if requests is not None and not requests.allowed:
            self._end(ticket)
            raise Refused(_limited(REQUESTS_LIMITED, requests, _told("requests", route.requests_per_minute, requests)))
        used = self._take(ticket, "tokens", route.tokens_per_minute, float(tokens))
        ticket.headers = (
            *_told("requests", route.requests_per_minute, requests),
            *_told("tokens", route.tokens_per_minute, used),
        )
        if used is not None and not used.allowed:
            self._end(ticket)
            self._charge(ticket, "requests", route.requests_per_minute, -1)
            raise Refused(_limited(TOKENS_LIMITED, used, ticket.headers))
        return ticket

    def _begin(self, ticket: Ticket) -> None:
        limit = ticket.route.max_concurrent_requests
        if limit is None:
            return
        try:
            while self._owed:
                self._table.add(self._owed[-1], -1)
                self._owed.pop()
            now_running = self._table.add(_name("running", ticket), 1)
        except Unavailable:
            return
        ticket.counted = True
        if now_running > math.ceil(limit / self._pods):
            self._end(ticket)
            raise Refused(retry_after(CONCURRENCY_LIMITED, CONCURRENCY_RETRY_SECONDS))

    def _end(self, ticket: Ticket) -> None:
        if not ticket.counted:
            return
        ticket.counted = False
        try:
            self._table.add(_name("running", ticket), -1)
        except Unavailable:
            self._owed.append(_name("running", ticket))

    def _take(self, ticket: Ticket, what: str, limit: int | None, cost: float) -> Verdict | None:
        if limit is None:
            return None
        verdict: Verdict | None = None

        def change(tat: float) -> float:
            nonlocal verdict
            verdict = take(self._rate(limit), tat, self._clock(), cost)
            return verdict.tat

        try:
            self._table.update(_name(what, ticket), change)
        except Unavailable:
            return None
        return verdict

    def _charge(self, ticket: Ticket, what: str, limit: int | None, cost: float) -> None:
        if limit is None or not cost:
            return
        try:
            self._table.update(_name(what, ticket), lambda tat: charge(self._rate(limit), tat, self._clock(), cost))
        except Unavailable:
            return

    def _rate(self, limit: int) -> Rate:
        return Rate(max(1.0, limit / self._pods))


def _name(what: str, ticket: Ticket) -> str:
    return f"{what}/{ticket.key}/{ticket.route.model}"


def _told(what: str, limit: int | None, verdict: Verdict | None) -> tuple[Header, ...]:
    """As OpenAI's API tells it: the limit of the whole gateway, and what this part of it has left."""
    if limit is None or verdict is None:
        return ()
    return (
        (f"x-ratelimit-limit-{what}".encode(), b"%d" % limit),
        (f"x-ratelimit-remaining-{what}".encode(), b"%d" % verdict.remaining),
    )


def _limited(refusal: Refusal, verdict: Verdict, headers: tuple[Header, ...]) -> Refusal:
    return retry_after(refusal, verdict.retry_after, headers)
