"""OpenTelemetry traces: a span for each visit that does something, and beneath it its parts and its calls.

Off unless the environment names an OTLP endpoint: then this module is never loaded. Most visits find nothing to do,
and a span for each would hide the others; so a visit is told of where it writes, fails, or takes more than
SLOW_SECONDS. That is known at its end alone: until then its spans are held, and those of a visit without news are
dropped, never having ended.

Names and numbers alone go into a span: no manifest, no Secret, and no sentence of the API server's, which may repeat
what a spec says.
"""

import asyncio
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import Thread
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ryzanstein_operator.cluster.calls import subject_of
from ryzanstein_operator.cluster.client import Call
from ryzanstein_operator.trace import About, Tracer, Visit
from ryzanstein_worker import contract

FLUSH_SECONDS: Final = 1.5
"""At the end, for what is left: less than the time that the operator has to give its Lease back and go."""
SLOW_SECONDS: Final = 1.0
_SCOPE: Final = "ryzanstein_operator"
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_NAMES: Final = {
    "Deployment": "k8s.deployment.name",
    "StatefulSet": "k8s.statefulset.name",
    "Pod": "k8s.pod.name",
    "Node": "k8s.node.name",
}
"""Of the semantic conventions' attributes those for kinds that the operator calls."""
Attributes = dict[str, str | int | float]


class Tracing(Tracer):
    """Makes the spans of one process. Sampler, headers, batches and the rest are the OTEL_* variables'."""

    def __init__(self, instance: str, environment: Mapping[str, str]) -> None:
        named = "OTEL_SERVICE_NAME" in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
        own = {"service.instance.id": instance or socket.gethostname(), "service.version": contract.VERSION}
        own |= {} if named else {"service.name": "ryzanstein-operator"}
        self._provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
        # Its queue is bounded and filled without waiting: a collector that is slow or away costs spans, not visits.
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(_SCOPE, contract.VERSION)

    def visit(self, about: About, links: tuple[str, ...] = ()) -> Visit:
        """Its span begins now; it is sent only where `ended` says so."""
        what = "service" if about.namespace else about.name or "routes"
        attributes: Attributes = {"ryzanstein.queue.wait_seconds": round(about.waited, 6)}
        if about.namespace:
            attributes |= {"k8s.namespace.name": about.namespace, "ryzanstein.inference_service.name": about.name}
        found = [Link(context) for text in links if (context := _context_of(text)).is_valid]
        span = self._tracer.start_span(f"reconcile {what}", Context(), SpanKind.INTERNAL, attributes, found)
        return TracedVisit(self._tracer, span) if span.is_recording() else Visit()

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
            async with asyncio.timeout(FLUSH_SECONDS):
                await flushed.wait()


class TracedVisit(Visit):
    """One visit's span and those that hang on it, all begun and none ended before it is known whether it is told of."""

    def __init__(self, tracer: trace.Tracer, span: Span) -> None:
        self._tracer, self._span = tracer, span
        self.id = trace.format_trace_id(span.get_span_context().trace_id)
        self._below = trace.set_span_in_context(span, Context())
        self._began = time.monotonic()
        self._held: list[tuple[Span, int]] = []
        self._wrote = False

    def phase(self, name: str) -> AbstractContextManager[None]:
        """A span; what is called within hangs on it."""
        return self._phase(name)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        above, span = self._below, self._tracer.start_span(name, self._below)
        self._below = trace.set_span_in_context(span, Context())
        try:
            yield
        finally:
            self._below = above
            self._held.append((span, time.time_ns()))

    def called(self, call: Call) -> None:
        """A client's span, of the time that it took."""
        end = time.time_ns()
        subject = subject_of(call)
        self._wrote = self._wrote or call.method != "GET"
        attributes: Attributes = {"http.request.method": call.method, "ryzanstein.kubernetes.verb": subject.verb}
        attributes |= {"ryzanstein.kubernetes.kind": subject.kind, "k8s.namespace.name": subject.namespace}
        attributes |= {"ryzanstein.kubernetes.name": subject.name, _NAMES.get(subject.kind, ""): subject.name}
        attributes |= {"ryzanstein.kubernetes.subresource": subject.subresource}
        if call.status:
            attributes["http.response.status_code"] = call.status
        if call.attempt > 1:
            attributes["http.request.resend_count"] = call.attempt - 1
        if not 200 <= call.status < 300:
            attributes["error.type"] = str(call.status) if call.status else "unreachable"
        kept = {name: value for name, value in attributes.items() if name and value != ""}
        begin = end - round(call.seconds * 1e9)
        words = f"{subject.verb} {subject.kind}".strip()
        span = self._tracer.start_span(words, self._below, SpanKind.CLIENT, kept, start_time=begin)
        if "error.type" in kept and call.status != 404:  # to find nothing is an answer
            span.set_status(StatusCode.ERROR)
        self._held.append((span, end))

    def noted(self, **attributes: str | int | float) -> None:
        """Attributes under our own prefix; an underscore in a name stands for a dot."""
        self._span.set_attributes({f"ryzanstein.{name.replace('_', '.')}": each for name, each in attributes.items()})

    def ended(self, result: str) -> bool:
        """Told of where it wrote, failed or was slow."""
        failed = result != "done"
        if not (failed or self._wrote or time.monotonic() - self._began > SLOW_SECONDS):
            return False
        self._span.set_attribute("ryzanstein.result", result)
        if result == "failed":
            self._span.set_status(StatusCode.ERROR)
        for span, end in self._held:
            span.end(end)
        self._span.end()
        return True


def _context_of(traceparent: str) -> trace.SpanContext:
    """Of a W3C traceparent; not valid where the text is none."""
    context = _PROPAGATOR.extract({"traceparent": traceparent}, Context())
    return trace.get_current_span(context).get_span_context()
