"""What a request tells of its way, for whoever traces it. Here nobody does, and it costs a method call.

tracing.py is the one who does. Knows nothing of OpenTelemetry, so that a gateway without traces never loads it.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Final

Header = tuple[bytes, bytes]


def is_enabled(environ: Mapping[str, str]) -> bool:
    """Whether the standard OTEL_* variables ask for traces over OTLP."""
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return bool(endpoint) and not disabled and environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() == "otlp"


class Attempt:
    """One try at one replica, as a context."""

    __slots__ = ()

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The try is over."""

    def carry(self, headers: list[Header]) -> list[Header]:
        """The headers to send, with the trace's context: untraced, the client's own goes on."""
        return headers

    def ended(self, how: str, tokens: int) -> None:
        """How it ended, in a word of migrate.Ending, and how many tokens the replica delivered."""


class Trace:
    """One request."""

    __slots__ = ()
    id: str = ""
    """The trace's, 32 hex digits; empty where there is none."""
    sampled: bool = False
    """Whether the trace is kept: who looks for it will find it."""
    parent: str = ""
    """W3C's traceparent of the request's own span, for who acts because of it; empty where the trace is not kept."""

    def admitted(self) -> None:
        """The request may go on; it may have waited until now."""

    def attempt(self, endpoint: str, host: str, port: int) -> Attempt:
        """It is sent to a replica."""
        return _NO_ATTEMPT

    def lost(self, endpoint: str, how: str, outcome: str) -> None:
        """A replica was lost with it; `outcome`: what became of it (resumed, anew, or the end)."""


_NO_ATTEMPT: Final = Attempt()
UNTRACED: Final = Trace()
current: Final[ContextVar[Trace]] = ContextVar("current", default=UNTRACED)
"""The request that this task works for, for those who are told of none."""
