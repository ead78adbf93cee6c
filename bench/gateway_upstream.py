"""The replica behind every proxy of `bench.gateway`: OpenAI's shape, no model, as fast as a Python server can be.

    python -m bench.gateway_upstream HOST PORT HEALTH_PORT

Knows HTTP/1.1 as far as the benchmark's own proxies speak it, the gateway's journal and the worker's status page. A
request says in the body's `user` how its stream is to be paced: `"user":"pace-20"` is a token each 20 milliseconds,
all streams of one pace in one turn, as an engine's step would give them; `pace-0` is the next turn of the event loop.
`max_tokens` is the number of tokens. With `"user":"idle-600"` the first token comes at once and the others, with the
end, after 600 seconds: an idle stream. Each token's text is the monotonic clock in nanoseconds at which it was made.
"""

import asyncio
import json
import re
import sys
import time
from typing import Final

import uvloop

from ryzanstein_worker.contract import HEADER_JOURNAL, HEALTH_STATUS

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MAX_TOKENS: Final = re.compile(rb'"max_tokens": ?(\d+)')
_USER: Final = re.compile(rb'"user": ?"(pace|idle)-(\d+)"')
_STREAM: Final = re.compile(rb'"stream": ?true')
_JOURNAL: Final = HEADER_JOURNAL.encode()

_MESSAGE: Final = (
    b'{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"bench","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog."},"logprobs":null,'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":10,"total_tokens":19}}'
)
_UNARY: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_MESSAGE)
) + _MESSAGE
_CHUNK: Final = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":" %d"},"logprobs":null,"finish_reason":null}]}\n\n'
)
_LAST: Final = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
)
_DONE: Final = b"data: [DONE]\n\n"
_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"%stransfer-encoding: chunked\r\n\r\n"
)
_STATUS: Final = {
    "phase": "serving",
    "ready": True,
    "reason": "",
    "epoch": "1",
    "beat_age": 0.0,
    "running": 0,
    "waiting": 0,
    "kv_cache_usage": 0.0,
    "max_num_seqs": 100_000,
    "max_queued_requests": 100_000,
}
_JOURNAL_LINE: Final = _JOURNAL + b": chatcmpl-bench 1700000000 1234567890123456789\r\n"


class Pacer:
    """Gives all streams of one pace their next token in one turn."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._streams: set[Replica] = set()

    def add(self, stream: "Replica") -> None:
        """Take a stream in; the first one starts the clock."""
        if not self._streams:
            self._later()
        self._streams.add(stream)

    def _later(self) -> None:
        loop = asyncio.get_running_loop()
        if self._seconds:
            loop.call_later(self._seconds, self._turn)
        else:
            loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._streams = {stream for stream in self._streams if stream.step()}
        if self._streams:
            self._later()


class Replica(asyncio.Protocol):
    """One connection: one request after another, each answered when its body is whole."""

    pacers: dict[int, Pacer] = {}

    def __init__(self) -> None:
        self._data = b""
        self._left = 0
        self._journal = False
        self._writable = True
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop's own class
        """Begin."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """The proxy hung up."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        """The proxy reads slowly: no token until it catches up."""
        self._writable = False

    def resume_writing(self) -> None:
        """Go on."""
        self._writable = True

    def data_received(self, data: bytes) -> None:
        """Collect a request; answer it once it is whole."""
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        found = _LENGTH.search(self._data, 0, end)
        whole = end + 4 + (int(found[1]) if found else 0)
        if len(self._data) >= whole:
            head, body, self._data = self._data[:end], self._data[end + 4 : whole], self._data[whole:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        if not _STREAM.search(body):
            self._transport.write(_UNARY)
            return
        user, tokens = _USER.search(body), _MAX_TOKENS.search(body)
        self._left = int(tokens[1]) if tokens else 16
        self._journal = _JOURNAL in head.lower()
        self._transport.write(_STREAM_HEAD % (_JOURNAL_LINE if self._journal else b""))
        value = int(user[2]) if user else 0
        if user and user[1] == b"idle":
            self.step()
            self._timer = asyncio.get_running_loop().call_later(value, self._finish)
        else:
            self.pacers.setdefault(value, Pacer(value / 1000)).add(self)

    def step(self) -> bool:
        """Send the next token. False once the stream has ended."""
        if self._transport is None:
            return False
        if not self._writable:
            return True
        self._send(_CHUNK % time.monotonic_ns())
        self._left -= 1
        if self._left:
            return True
        self._finish()
        return False

    def _finish(self) -> None:
        if self._transport is not None:
            self._send(_LAST)
            self._transport.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(_DONE), _DONE))

    def _send(self, events: bytes) -> None:
        assert self._transport is not None
        if self._journal:
            events += b":c 0 0 %d\n\n" % (self._left + 1000)
        self._transport.write(b"%x\r\n%s\r\n" % (len(events), events))


class Status(asyncio.Protocol):
    """The worker's health port: always serving, never busy."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop's own class
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request."""
        body = json.dumps(_STATUS).encode() if data.startswith(b"GET " + HEALTH_STATUS.encode()) else b"ok\n"
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)


async def serve(host: str, port: int, health_port: int) -> None:
    """Listen for ever."""
    loop = asyncio.get_running_loop()
    await loop.create_server(Status, host, health_port)
    server = await loop.create_server(Replica, host, port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
