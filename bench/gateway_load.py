"""The client of `bench.gateway`: one process, one event loop, raw HTTP/1.1 over loopback, a count and a time to end.

    python -m bench.gateway_load JOB      JOB: the JSON of a Job; the result is one line of JSON on standard output

Jobs: `unary` and `tokens` measure latency with one request at a time, the targets in turn (so that whatever slows the
machine slows all of them); `streams` keeps a number of streams going at one target; `idle` opens streams, says how
many have begun, and holds them until its standard input is closed; `hangups` opens streams and leaves after the first
byte. A token's text is the clock at which the replica made it, so its age on arrival is the way's latency.
"""

import asyncio
import re
import statistics
import sys
import time
from collections.abc import Callable
from itertools import count
from typing import Final

import msgspec
import uvloop

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STAMP: Final = re.compile(rb'"content": ?" (\d+)"')
_CONNECT_SECONDS: Final = 30.0
_REPLY_SECONDS: Final = 60.0
_AT_ONCE: Final = 200


class Target(msgspec.Struct, frozen=True):
    """A server on loopback; `key` is its API key."""

    name: str
    port: int
    key: str = ""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. `seconds` bounds `streams`; `pace` is milliseconds a token."""

    kind: str
    targets: tuple[Target, ...]
    requests: int = 0
    gap_seconds: float = 0.0
    streams: int = 0
    tokens: int = 0
    pace: int = 0
    seconds: float = 0.0


class Latency(msgspec.Struct, frozen=True):
    """Seconds."""

    p50: float
    p99: float
    least: float
    count: int


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    latency: dict[str, Latency] = {}
    tokens: int = 0
    streams: int = 0
    failed: int = 0
    seconds: float = 0.0


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.tokens = 0
        self.ages: list[int] | None = None
        self.first = asyncio.Event()
        self.ok = True
        self.closed = False
        self._done: asyncio.Future[None] | None = None
        self._head = b""
        self._expected = -1
        self._tail = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop's own class
        """Connected."""
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Whatever was asked is not going to be answered."""
        self.closed = True
        self.first.set()
        if self._done is not None and not self._done.done():
            self.ok = False
            self._done.set_result(None)

    async def ask(self, request: bytes) -> None:
        """Send a request and wait for the end of its reply."""
        self._head, self._expected, self._tail = b"", -1, b""
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        async with asyncio.timeout(_REPLY_SECONDS):
            await self._done

    def data_received(self, data: bytes) -> None:
        """Find the head's end, then count."""
        if self._expected == -1:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            self.ok = self._head.startswith(b"HTTP/1.1 200")
            found = _LENGTH.search(self._head, 0, end)
            self._expected, data = int(found[1]) if found else -2, self._head[end + 4 :]
        if self._expected >= 0:
            self._expected -= len(data)
            if self._expected <= 0:
                self._finish()
            return
        if self.ages is not None:
            now = time.monotonic_ns()
            self.ages.extend(now - int(stamp) for stamp in _STAMP.findall(data))
        self.tokens += data.count(b'"content"')
        if data:
            self.first.set()
        self._tail = (self._tail + data[-8:])[-8:]
        if self._tail.endswith(b"0\r\n\r\n"):
            self._finish()

    def _finish(self) -> None:
        self.first.set()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


def request_bytes(target: Target, user: str, tokens: int, *, stream: bool) -> bytes:
    """A chat completion as a client sends it."""
    body = msgspec.json.encode(
        {
            "model": "bench",
            "messages": [{"role": "user", "content": "Why is the sky blue? Answer in one sentence."}],
            "max_tokens": tokens,
            "user": user,
            "stream": stream,
        }
    )
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{target.port}\r\nauthorization: Bearer {target.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def connect(target: Target, source: int = 1) -> Client:
    """A connection from the loopback address 127.0.0.<source>."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_CONNECT_SECONDS):
        _, client = await loop.create_connection(Client, "127.0.0.1", target.port, local_addr=(f"127.0.0.{source}", 0))
    return client


def summary(values: list[float]) -> Latency:
    """Of seconds."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return Latency(statistics.median(ordered), ordered[round(0.99 * last)], ordered[0], len(ordered))


async def one_at_a_time(job: Job) -> Result:
    """Each target in turn, in an order that moves on by one each round."""
    clients = {target.name: await connect(target) for target in job.targets}
    taken: dict[str, list[float]] = {target.name: [] for target in job.targets}
    stream = job.kind == "tokens"
    asked = {
        target.name: request_bytes(target, f"pace-{job.pace}", job.tokens, stream=stream) for target in job.targets
    }
    failed = 0
    for turn in range(-3, job.requests):  # three to warm up
        for place in range(len(job.targets)):
            name = job.targets[(turn + place) % len(job.targets)].name
            client = clients[name]
            client.ages = [] if stream else None
            began = time.perf_counter()
            await client.ask(asked[name])
            seconds = time.perf_counter() - began
            failed += not client.ok
            if turn >= 0:
                taken[name] += [age / 1e9 for age in client.ages] if client.ages is not None else [seconds]
            await asyncio.sleep(job.gap_seconds)
    return Result(latency={name: summary(values) for name, values in taken.items()}, failed=failed)


async def many_streams(job: Job) -> Result:
    """`streams` at a time, a new one for each that ends, until the time is over."""
    target = job.targets[0]
    asked = request_bytes(target, f"pace-{job.pace}", job.tokens, stream=True)
    began = time.perf_counter()
    ended = failed = 0
    clients: list[Client] = []

    async def keep_going() -> None:
        nonlocal ended, failed
        client = await connect(target)
        clients.append(client)
        while time.perf_counter() - began < job.seconds:
            await client.ask(asked)
            ended += client.ok
            failed += not client.ok
            if client.closed:
                client = await connect(target)
                clients.append(client)
        client.transport.close()

    await asyncio.gather(*(keep_going() for _ in range(job.streams)))
    seconds = time.perf_counter() - began
    return Result(tokens=sum(one.tokens for one in clients), streams=ended, failed=failed, seconds=seconds)


async def begin_streams(job: Job, then: Callable[[Client], None]) -> int:
    """Open streams, some at once; how many gave their first byte of an event stream."""
    target = job.targets[0]
    asked = request_bytes(target, f"idle-{round(job.seconds)}", 2, stream=True)
    numbers, begun = count(), 0

    async def open_some() -> None:
        nonlocal begun
        while (number := next(numbers)) < job.streams:
            client = await connect(target, 1 + number % 8)
            client.transport.write(asked)
            async with asyncio.timeout(_REPLY_SECONDS):
                await client.first.wait()
            begun += client.ok and not client.closed
            then(client)

    await asyncio.gather(*(open_some() for _ in range(_AT_ONCE)))
    return begun


async def idle(job: Job) -> Result:
    """Hold the streams until standard input is closed."""
    held: list[Client] = []
    began = time.perf_counter()
    begun = await begin_streams(job, held.append)
    seconds = time.perf_counter() - began
    sys.stdout.write(f"{begun}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    alive = sum(not one.closed for one in held)
    for one in held:
        one.transport.abort()
    return Result(streams=alive, failed=job.streams - alive, seconds=seconds)


async def hangups(job: Job) -> Result:
    """Leave each stream after its first byte, half of them with a reset."""
    resets = count()

    def leave(client: Client) -> None:
        (client.transport.abort if next(resets) % 2 else client.transport.close)()

    began = time.perf_counter()
    begun = await begin_streams(job, leave)
    return Result(streams=begun, failed=job.streams - begun, seconds=time.perf_counter() - began)


async def run(job: Job) -> None:
    """Do a job and print its result."""
    jobs = {
        "unary": one_at_a_time, "tokens": one_at_a_time, "streams": many_streams, "idle": idle, "hangups": hangups,
    }  # fmt: skip
    result = await jobs[job.kind](job)
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(msgspec.json.decode(sys.argv[1], type=Job)))
