"""What a visit tells of its way, for whoever traces it. Here nobody does, and it costs next to nothing.

tracing.py is the one who does. Knows nothing of OpenTelemetry, so that an operator without traces never loads it.
"""

from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from ryzanstein_operator.cluster.client import Call

MOST_LINKS: Final = 16
"""From one visit to what has woken it."""
NOTHING: Final[AbstractContextManager[None]] = nullcontext()


def is_enabled(environment: Mapping[str, str]) -> bool:
    """Whether the standard OTEL_* variables ask for traces over OTLP."""
    endpoint = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return bool(endpoint) and not disabled and environment.get("OTEL_TRACES_EXPORTER", "otlp").strip() == "otlp"


@dataclass(frozen=True)
class About:
    """What a visit is about. namespace and name: of the InferenceService; without a namespace the visit is to what
    concerns all of them, `name`. waited: how much later than due it began, in seconds."""

    namespace: str
    name: str
    waited: float


class Visit:
    """One visit, as a context: what is called within belongs to it, whichever task makes the call."""

    id: str = ""
    """The trace's, 32 hex digits; empty where there is none."""
    _token: "Token[Visit] | None" = None

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """A part of it: observe, decide, apply."""
        return NOTHING

    def called(self, call: Call) -> None:
        """An attempt at a call to the API server has ended."""

    def noted(self, **attributes: str | int | float) -> None:
        """Something to know of it."""

    def ended(self, result: str) -> bool:
        """How it ended, in the metrics' words. Says whether it is told of."""
        return False


UNTRACED: Final = Visit()
_current: ContextVar[Visit] = ContextVar("visit", default=UNTRACED)


def current() -> Visit:
    """The visit that this task works for; one that tells nobody where there is none."""
    return _current.get()


class Wakers:
    """Which traces have asked for a visit of each key since the last one. A few of them, however many there are."""

    def __init__(self) -> None:
        self._traceparents: dict[Hashable, list[str]] = {}

    def by(self, key: Hashable, traceparent: str) -> None:
        """W3C's, of a key that there is; empty where nobody traces."""
        found = self._traceparents.setdefault(key, []) if traceparent else []
        if len(found) < MOST_LINKS and traceparent not in found:
            found.append(traceparent)

    def of(self, key: Hashable) -> tuple[str, ...]:
        """Those, once: the next visit has its own."""
        return tuple(self._traceparents.pop(key, ()))


class Tracer:
    """Makes visits that tell nobody."""

    def visit(self, about: About, links: tuple[str, ...] = ()) -> Visit:
        """A visit begins. links: W3C traceparents of what has woken it."""
        return Visit()

    async def close(self) -> None:
        """No more visits."""
