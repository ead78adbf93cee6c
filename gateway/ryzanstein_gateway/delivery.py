"""One request on its way: what is to be sent, what the client has got, and how a replica's reply becomes more of it.

Knows replies and event streams; does not choose replicas and does not decide what follows a loss.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec

from ryzanstein_gateway.errors import QUARANTINED, STREAM_CUT, Refusal, Refused
from ryzanstein_gateway.exchange import Exchange, Header, Outlet
from ryzanstein_gateway.journal import Closing, EventSplitter, Journal, JournalSplitter, Splitter
from ryzanstein_gateway.migrate import Ending, Losses, resume_body
from ryzanstein_gateway.replica_state import Attempt, ReplicaState
from ryzanstein_gateway.routes import Route
from ryzanstein_gateway.upstream import Broken, Response
from ryzanstein_worker.contract import (
    CONTENT_TYPE_RESUME,
    HEADER_CACHE_SALT,
    HEADER_JOURNAL,
    HEADER_LOST,
    HEADER_NOT_STARTED,
    HEADER_REQUEST_ID,
    HEADER_USAGE,
)

MAX_HELD_REPLY_BYTES: Final = 1024 * 1024
"""As much of a reply that is no stream is kept until it is whole: up to there it can be had anew elsewhere."""
_END_SECONDS: Final = 1.0
_EVENT_STREAM: Final = b"text/event-stream"
_NOT_STARTED: Final = HEADER_NOT_STARTED.encode()
_LOST: Final = HEADER_LOST.encode()
_JOURNAL: Final = HEADER_JOURNAL.encode()
_USAGE: Final = re.compile(rb"(\d{1,9})(?: (\d{1,9}))?")
_CONTENT_TYPE: Final = b"content-type"

# What goes up is a list of what may, so that no credential and no header of ours can slip through.
_PASSED_UP: Final = frozenset({b"accept", _CONTENT_TYPE, b"traceparent", b"tracestate", b"user-agent"})
_KEPT_BACK: Final = frozenset(
    name.encode()
    for name in (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade"),  # hop by hop
        *("date", "server", HEADER_REQUEST_ID, HEADER_NOT_STARTED, HEADER_CACHE_SALT),  # ours to say
        *(HEADER_JOURNAL, HEADER_LOST, HEADER_USAGE),
    )
)


class Errand(msgspec.Struct, frozen=True):
    """What is to be sent: the body as it came, to whichever replica of the route."""

    route: Route
    path: str
    body: bytes
    cache_salt: str
    prefix_keys: tuple[int, ...] = ()
    """prefix.piece_keys of the prompt, for a route that is PrefixAware."""
    stream: bool = False
    """Whether an event stream is asked for."""


@dataclass(slots=True)
class Delivery:
    """The state of one request; lives as long as it."""

    errand: Errand
    exchange: Exchange
    outlet: Outlet
    clock: Callable[[], float] = time.monotonic
    journal: Journal | None = None
    """Of the stream that is being delivered, if there is one that can be continued."""
    losses: Losses = field(default_factory=Losses)
    progress: int = 0
    """Tokens that the present replica has delivered."""
    event_stream: bool = False
    left: str = ""
    """The host of the replica that was lost last."""
    lost_at: float | None = None
    """When the client last got something before a loss, until it gets more."""
    gaps: list[float] = field(default_factory=list)
    """Seconds that the client waited over each loss."""
    _wrote_at: float = 0.0
    _counted: int = 0

    def resuming(self) -> bool:
        """Whether the next replica goes on where another has ended; else it is sent the request as it came."""
        return self.journal is not None and self.journal.num_tokens > 0

    def can_move(self) -> bool:
        """Whether another replica can take it: nothing was delivered, or it is known what."""
        return not self.outlet.started or self.resuming()

    def message(self) -> tuple[list[Header], bytes]:
        """The headers and the body to send now."""
        headers = list(self._headers())
        if self.journal is None or not self.resuming():
            return headers, self.errand.body
        headers = [(name, value) for name, value in headers if name != _CONTENT_TYPE]
        headers.append((_CONTENT_TYPE, CONTENT_TYPE_RESUME.encode()))
        return headers, resume_body(self.errand.body, self.journal)

    async def receive(self, response: Response, replica: ReplicaState, attempt: Attempt, sent_at: float) -> Ending:
        """Pass one reply on. Raises Broken where the replica breaks off, StreamError where its stream is none."""
        said = response.header(_NOT_STARTED)
        if response.status == 503 and said is not None:
            return Ending.OVERLOADED if said == Ending.OVERLOADED.value.encode() else Ending.DRAINING
        lost = response.header(_LOST)
        if response.status == 503 and lost is not None:
            return Ending.DRAIN if lost == Ending.DRAIN.value.encode() else Ending.CRASH
        self._note_usage(response.header(HEADER_USAGE.encode()))
        if response.status == 200 and (response.header(_CONTENT_TYPE) or b"").startswith(_EVENT_STREAM):
            return await self._events(response, replica, attempt, sent_at)
        if self.resuming():
            return Ending.QUARANTINED if response.status == QUARANTINED.status else Ending.UNFIT
        return await self._whole(response, replica, attempt)

    def lose(self, host: str, losses: Losses) -> None:
        """The replica did not bring the request to its end."""
        self.left, self.losses = host, losses
        self.lost_at = self._wrote_at if self.outlet.started else None

    async def fail(self, refusal: Refusal) -> None:
        """Say that it went wrong: as a status while that can be said, else in the stream. Raises Refused."""
        if not self.outlet.started:
            raise Refused(refusal)
        await self.outlet.cut(refusal, event_stream=self.event_stream)

    async def _events(self, response: Response, replica: ReplicaState, attempt: Attempt, sent_at: float) -> Ending:
        splitter = self._splitter(response.header(_JOURNAL))
        if splitter is None:
            return Ending.UNFIT
        self.event_stream = True
        tokens_before = self.journal.num_tokens if self.journal else 0
        first = True
        while splitter.closing is None and (piece := await _read(response, attempt, self.clock)):
            if first:
                first = False
                replica.first_byte(self.clock() - sent_at)
            whole = splitter.feed(piece)
            if self.journal is not None:
                self.progress = self.journal.num_tokens - tokens_before
                self._note_tokens(self.journal.num_tokens)
            if whole:
                await self._write(whole, response)
        return await self._closed(splitter.closing, response, replica)

    async def _closed(self, closing: Closing | None, response: Response, replica: ReplicaState) -> Ending:
        match closing:
            case Closing.DONE:
                replica.answered(error=False)
                await _finish(response)
                await self.outlet.end()
                return Ending.ANSWERED
            case Closing.ERROR:  # the replica has said which, in the stream
                replica.answered(error=True)
                await self.outlet.cut(STREAM_CUT, event_stream=False)
                return Ending.ANSWERED
            case Closing.LOST_DRAIN:
                return Ending.DRAIN
        # A stream that ends without saying so was broken off, whatever the transport says.
        return Ending.CRASH

    async def _whole(self, response: Response, replica: ReplicaState, attempt: Attempt) -> Ending:
        held: list[bytes] = []
        size = 0
        while piece := await _read(response, attempt, self.clock):
            held.append(piece)
            size += len(piece)
            if size > MAX_HELD_REPLY_BYTES:
                await self._write(b"".join(held), response)
                held.clear()
        await self._write(b"".join(held), response)
        replica.answered(error=response.status >= 500)
        await self.outlet.end()
        return Ending.ANSWERED

    async def _write(self, piece: bytes, response: Response) -> None:
        if not self.outlet.started:
            await self.outlet.start(response.status, _headers_down(response))
        if piece:
            await self.outlet.write(piece)
        self._wrote_at = self.clock()
        if self.lost_at is not None:
            self.gaps.append(self._wrote_at - self.lost_at)
            self.lost_at = None

    def _note_usage(self, header: bytes | None) -> None:
        """For the access log. Of a stream the answer's tokens are counted by its journal."""
        if header is not None and (match := _USAGE.fullmatch(header)) is not None:
            self.exchange.prompt_tokens = int(match[1])
            self.exchange.completion_tokens = int(match[2]) if match[2] else None

    def _note_tokens(self, number: int) -> None:
        if number > self._counted:
            self._counted, self.exchange.last_token = number, time.perf_counter()
            if self.exchange.first_token is None:
                self.exchange.first_token = self.exchange.last_token

    def _splitter(self, header: bytes | None) -> Splitter | None:
        """None where a stream is to be continued and the replica does not do so."""
        journal = None if header is None else Journal.parse(header)
        if self.journal is None or not self.resuming():
            self.journal = journal
        elif journal is None or (journal.id, journal.seed) != (self.journal.id, self.journal.seed):
            return None
        return EventSplitter() if self.journal is None else JournalSplitter(self.journal)

    def _headers(self) -> Iterator[Header]:
        for name, value in self.exchange.headers:
            if name in _PASSED_UP:
                yield name, value
        yield HEADER_REQUEST_ID.encode(), self.exchange.request_id.encode()
        if self.errand.cache_salt:
            yield HEADER_CACHE_SALT.encode(), self.errand.cache_salt.encode()
        if self.errand.stream:
            yield _JOURNAL, b"1"


async def _read(response: Response, attempt: Attempt, clock: Callable[[], float]) -> bytes:
    attempt.waiting_since = clock()
    piece = await response.read()
    attempt.waiting_since = None
    return piece


async def _finish(response: Response) -> None:
    """Take the end of a reply whose content is whole, so that its connection can be used again."""
    with suppress(Broken, TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            while await response.read():
                pass


def _headers_down(response: Response) -> list[Header]:
    named = {token.strip().lower() for token in (response.header(b"connection") or b"").split(b",")}
    return [(name, value) for name, value in response.headers if name not in _KEPT_BACK and name not in named]
