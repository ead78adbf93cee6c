"""The WebSocket server's limits below the application: frames, pings, and clients that do not read.

uvicorn's protocol bounds the size of a message; this one bounds the rest. Knows frames, nothing of their meaning.
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from ryzanstein_gateway.protocol import ABORT, DRAIN
from ryzanstein_gateway.settings import Settings

PING_SECONDS: Final = 20.0
"""A client that says nothing for so long is asked, and has as long again to answer."""
MAX_FRAGMENTS: Final = 256
"""Frames of one message."""
MAX_CONTROLS: Final = 100
"""A client's pings and pongs in a row within CONTROL_SECONDS."""
CONTROL_SECONDS: Final = 10.0
FRAMING_BYTES: Final = 4096
"""What a message may have beyond the body in it."""
_POLICY_VIOLATION: Final = 1008
_LINGER_SECONDS: Final = 5.0


class BoundedSocket(WebSocketsSansIOProtocol):
    """WebSocketsSansIOProtocol that closes on floods of small frames, cuts who does not read, and can be drained."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._controls = 0
        self._controls_since = self.loop.time()
        self._last_resort: asyncio.TimerHandle | None = None

    def handle_connect(self, event: Any) -> None:
        """Begin, with a way for the application to cut the connection."""
        super().handle_connect(event)
        if self.response.status_code == 101:  # else the head was no handshake and has been refused
            self.scope["extensions"][ABORT] = {"close": self.transport.abort}

    def handle_cont(self, event: Frame) -> None:
        """A further frame of a message."""
        if len(self.frames) >= MAX_FRAGMENTS:
            self._violated("too many frames in a message")
        else:
            super().handle_cont(event)

    def handle_ping(self) -> None:
        """Answer, unless this one is one too many."""
        if self._counts():
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """Take an answer to a ping of ours, or one that nobody asked for."""
        if self._counts():
            super().handle_pong(event)

    def keepalive_timeout(self) -> None:
        """The client has not answered."""
        super().keepalive_timeout()
        self._cut_soon()

    def shutdown(self) -> None:
        """The server stops: the application closes when the running requests have ended."""
        if self.handshake_complete and not self.close_sent:
            drain: Any = {"type": DRAIN}  # ours, between ASGI's
            self.queue.put_nowait(drain)
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        if self._last_resort is not None:
            self._last_resort.cancel()
        super().connection_lost(exc)

    async def send(self, message: Any) -> None:
        """Send for the application; after a close the connection does not outlive its last bytes for long."""
        await super().send(message)
        if message["type"] == "websocket.close":
            self._cut_soon()

    def _counts(self) -> bool:
        now = self.loop.time()
        if now - self._controls_since > CONTROL_SECONDS:
            self._controls, self._controls_since = 0, now
        self._controls += 1
        if self._controls <= MAX_CONTROLS:
            return True
        self._violated("too many pings")
        return False

    def _violated(self, reason: str) -> None:
        if self.close_sent:
            return
        self.frames = []
        self.conn.fail(_POLICY_VIOLATION, reason)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": _POLICY_VIOLATION, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.close()
        self._cut_soon()

    def _cut_soon(self) -> None:
        if self._last_resort is None:
            self._last_resort = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)


def socket_options(settings: Settings) -> dict[str, Any]:
    """uvicorn's arguments for WebSockets."""
    return {
        "ws": BoundedSocket,
        "ws_max_size": settings.max_body_bytes + FRAMING_BYTES,
        "ws_ping_interval": PING_SECONDS,
        "ws_ping_timeout": PING_SECONDS,
        # What a message weighs is what came over the wire: nothing can swell.
        "ws_per_message_deflate": False,
    }
