"""OpenTelemetry traces: a span for each request, and beneath it the wait in the queue and each try at a replica.

Off unless the environment names an OTLP endpoint: then this module is never loaded. Knows W3C's trace context and the
semantic conventions for HTTP and GenAI where they have a name; is never handed a prompt, an answer or a key.
"""

import asyncio
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from threading import Thread
from types import TracebackType
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ryzanstein_gateway.exchange import Exchange
from ryzanstein_gateway.trace import Attempt, Header, Trace
from ryzanstein_worker.contract import CHAT_COMPLETIONS, COMPLETIONS

FLUSH_SECONDS: Final = 3.0
_SCOPE: Final = "ryzanstein_gateway"
_OPERATIONS: Final = {CHAT_COMPLETIONS: "chat", COMPLETIONS: "text_completion"}
_CONTEXT_HEADERS: Final = frozenset({b"traceparent", b"tracestate"})
_GOOD: Final = "answered"
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class Tracing:
    """Makes the spans of one process. Sampler, headers, batches and the rest are the OTEL_* variables'."""

    def __init__(self, slot: int, environ: Mapping[str, str]) -> None:
        named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        own = {"service.instance.id": f"{socket.gethostname()}/{slot}"}
        own |= {} if named else {"service.name": "ryzanstein-gateway"}
        self._provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
        # Its queue is bounded and filled without waiting: a collector that is slow or away costs spans, not requests.
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(_SCOPE)

    def begin(self, exchange: Exchange, path: str, model: str) -> Trace:
        """A request for a model of the table. Its span ends with `end`."""
        return RequestTrace(self._tracer, self._start(exchange, path, model))

    def end(self, exchange: Exchange) -> None:
        """A request has ended, in whatever way and however soon."""
        traced = exchange.trace
        span = traced.span if isinstance(traced, RequestTrace) else self._start(exchange, exchange.path, "")
        if not isinstance(traced, RequestTrace):
            exchange.trace = RequestTrace(self._tracer, span)
        _describe(span, exchange)
        span.end()

    async def close(self) -> None:
        """Send what is left, for a moment at most. On a thread that nobody waits for at the exit: with a collector
        that is away it would take ten seconds."""
        loop, flushed = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop did not wait
                loop.call_soon_threadsafe(flushed.set)

        Thread(target=flush, name="trace flush", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(flushed.wait(), FLUSH_SECONDS)

    def _start(self, exchange: Exchange, path: str, model: str) -> trace.Span:
        operation = _OPERATIONS.get(path)
        attributes: dict[str, str] = {"ryzanstein.request.id": exchange.request_id}
        attributes["network.protocol.name"] = exchange.protocol
        if exchange.protocol == "http":
            attributes |= {"http.request.method": exchange.method, "url.path": exchange.path[:256]}
        if operation and model:
            attributes |= {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "ryzanstein",
                "gen_ai.request.model": model,
            }
        # A name that a client can vary at will would fill the tracing backend's index.
        name = f"{operation} {model}" if operation and model else exchange.method
        return self._tracer.start_span(
            name, _context_of(exchange.headers), SpanKind.SERVER, attributes, start_time=_wall(exchange.began)
        )


class RequestTrace(Trace):
    """One request's span and what hangs on it."""

    __slots__ = ("_context", "_lost", "_queued_at", "_tracer", "id", "parent", "sampled", "span")

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self.span = span
        self.id = trace.format_trace_id(span.get_span_context().trace_id)
        self.sampled = span.get_span_context().trace_flags.sampled
        self.parent = f"00-{self.id}-{trace.format_span_id(span.get_span_context().span_id)}-01" if self.sampled else ""
        self._context = trace.set_span_in_context(span, Context())
        self._queued_at = time.time_ns()
        self._lost: Link | None = None

    def admitted(self) -> None:
        """A span for the wait, and no more time of waiting from here on."""
        self._tracer.start_span("queue", self._context, start_time=self._queued_at).end()

    def attempt(self, endpoint: str, host: str, port: int) -> Attempt:
        """A client's span; one that follows a lost replica is linked to the try that was lost."""
        links = [] if self._lost is None else [self._lost]
        attributes: dict[str, str | int] = {
            "server.address": host,
            "server.port": port,
            "ryzanstein.endpoint": endpoint,
        }
        span = self._tracer.start_span("send", self._context, SpanKind.CLIENT, attributes, links)
        return RequestAttempt(self, span)

    def lost(self, endpoint: str, how: str, outcome: str) -> None:
        """An event: the request moves on, or ends here."""
        self.span.add_event("migration", {"ryzanstein.endpoint": endpoint, "reason": how, "outcome": outcome})

    def left(self, span: trace.Span, how: str) -> None:
        """A try was not the last."""
        self._lost = Link(span.get_span_context(), {"reason": how})


class RequestAttempt(Attempt):
    """A client's span around one try."""

    __slots__ = ("_request", "_span")

    def __init__(self, request: RequestTrace, span: trace.Span) -> None:
        self._request = request
        self._span = span

    def carry(self, headers: list[Header]) -> list[Header]:
        """The headers with this span as the replica's parent."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(self._span, Context()))
        kept = [pair for pair in headers if pair[0] not in _CONTEXT_HEADERS]
        return kept + [(name.encode(), value.encode()) for name, value in carrier.items()]

    def ended(self, how: str, tokens: int) -> None:
        """Say how on the span."""
        self._span.set_attributes({"ryzanstein.ending": how, "gen_ai.usage.output_tokens": tokens})
        if how != _GOOD:
            self._span.set_attribute("error.type", how)
            self._span.set_status(StatusCode.ERROR)
            self._request.left(self._span, how)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:  # its name alone: a message could hold a client's words
            self._span.set_attribute("error.type", kind.__name__)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def _context_of(headers: list[Header]) -> Context:
    carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name in _CONTEXT_HEADERS}
    return _PROPAGATOR.extract(carrier, Context()) if carrier else Context()


def _describe(span: trace.Span, exchange: Exchange) -> None:
    numbers = {
        "http.response.status_code": exchange.status,
        "ryzanstein.tries": exchange.tries,
        "ryzanstein.migrations": exchange.migrations,
        "gen_ai.usage.input_tokens": exchange.prompt_tokens,
        "gen_ai.usage.output_tokens": exchange.completion_tokens,
    }
    span.set_attributes({name: number for name, number in numbers.items() if number is not None})
    if exchange.first_byte is not None:
        span.add_event("first byte", timestamp=_wall(exchange.first_byte))
    if exchange.outcome:
        span.set_attribute("error.type", exchange.outcome)
    if exchange.status >= 500 or (exchange.outcome and exchange.status == 200):
        span.set_status(StatusCode.ERROR)


def _wall(moment: float) -> int:
    """Nanoseconds since 1970 of a moment of time.perf_counter."""
    return time.time_ns() - round((time.perf_counter() - moment) * 1e9)
