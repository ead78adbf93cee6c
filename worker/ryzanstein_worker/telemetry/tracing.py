"""OpenTelemetry traces: a span for each request, and beneath it what the engine did with each choice.

Off unless the environment names an OTLP endpoint: then no object of OpenTelemetry's is ever made. Knows W3C's trace
context and counts; is never handed a prompt, a token or a key. What the engine did is engine_spans.py's.
"""

import asyncio
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Thread
from typing import Final

from opentelemetry import context, trace
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ryzanstein_worker import contract
from ryzanstein_worker.telemetry.engine_spans import ChoiceTrace
from ryzanstein_worker.telemetry.logs import bound

FLUSH_SECONDS: Final = 3.0
_SCOPE: Final = "ryzanstein_worker"
_OPERATIONS: Final = {contract.CHAT_COMPLETIONS: "chat", contract.COMPLETIONS: "text_completion"}

_current: ContextVar["RequestTrace | None"] = ContextVar("request_trace", default=None)


def is_enabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the standard OTEL_* variables ask for traces over OTLP."""
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return bool(endpoint) and not disabled and environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() == "otlp"


def current() -> "RequestTrace | None":
    """The trace of the request that this task works for; None where there is none."""
    return _current.get()


class Tracing:
    """Makes the spans of one worker. Sampler, headers, batches and the rest are the OTEL_* variables'."""

    def __init__(self, model: str, environ: Mapping[str, str] = os.environ) -> None:
        # Here and not above: who has no endpoint need not wait for these to be imported.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        own = {"service.instance.id": socket.gethostname()} | ({} if named else {"service.name": "ryzanstein-worker"})
        self._provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
        # Its queue is bounded and filled without waiting: a collector that is slow or away costs spans, not requests.
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(_SCOPE)
        self._model = model

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application, with a span around each request that generates."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in _OPERATIONS:
                await app(scope, receive, send)
                return
            with self.request(scope["path"], scope["headers"], scope["state"]["request_id"], "http") as request:

                async def watched(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        request.answered(message["status"])
                    await send(message)

                await app(scope, receive, watched)

        return traced

    @contextmanager
    def request(
        self, path: str, headers: Iterable[tuple[bytes, bytes]], request_id: str, protocol: str
    ) -> "Iterator[RequestTrace]":
        """A span for a request, beneath the one that its headers name; what runs within is told of it by `current`."""
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        operation = _OPERATIONS[path]
        span = self._tracer.start_span(
            f"{operation} {self._model}",
            TraceContextTextMapPropagator().extract(carrier, context.Context()),
            SpanKind.SERVER,
            {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "ryzanstein",
                "gen_ai.request.model": self._model,
                "network.protocol.name": protocol,
                "url.path": path,
                "ryzanstein.request.id": request_id,
            },
        )
        request = RequestTrace(self._tracer, span)
        token = _current.set(request)
        try:
            with bound(trace_id=format(span.get_span_context().trace_id, "032x")):
                yield request
        except Exception as error:
            request.failed(type(error).__name__)  # its name alone: a message could hold a client's words
            raise
        finally:
            _current.reset(token)
            request.end()

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


class RequestTrace:
    """One request: its span, and the sums over its choices."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self.tracer = tracer
        self.span = span
        self._prompts: list[int] = []
        self._tokens = 0
        self._reasons: list[str] = []

    def choice(self, arrival: float, num_prompt_tokens: int) -> "ChoiceTrace":
        """One of its choices begins."""
        self._prompts.append(num_prompt_tokens)
        return ChoiceTrace(self.tracer, self.span, arrival, num_prompt_tokens, self._ended)

    def answered(self, status: int) -> None:
        """The reply's HTTP status."""
        self.span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self.span.set_status(StatusCode.ERROR)

    def failed(self, kind: str) -> None:
        """There is no reply, or none that is whole."""
        self.span.set_attribute("error.type", kind)
        self.span.set_status(StatusCode.ERROR)

    def _ended(self, tokens: int, reason: str) -> None:
        """A choice has."""
        self._tokens += tokens
        self._reasons.append(reason)

    def end(self) -> None:
        """The reply is out, or its client gone."""
        if len(self._prompts) == 1:  # several choices may share a prompt, which would count twice
            self.span.set_attribute("gen_ai.usage.input_tokens", self._prompts[0])
        if self._reasons:
            self.span.set_attribute("gen_ai.usage.output_tokens", self._tokens)
            self.span.set_attribute("gen_ai.response.finish_reasons", self._reasons)
        self.span.end()
