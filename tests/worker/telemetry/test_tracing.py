"""What a worker's trace says of a request: made from moments, bounded, nothing of content, and nothing unasked."""

import asyncio
import time
from typing import Any

import pytest

from otlp import Collector, Span, collector
from ryzanstein_worker.contract import CHAT_COMPLETIONS, COMPLETIONS, METRICS
from ryzanstein_worker.engine.request import StepPart
from ryzanstein_worker.telemetry import tracing
from ryzanstein_worker.telemetry.engine_spans import MAX_STEP_EVENTS
from ryzanstein_worker.telemetry.metrics import ServerMetrics
from ryzanstein_worker.telemetry.tracing import Tracing, is_enabled

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ERROR = 2


class App:
    """An application that runs choices as the engine does: `steps` outputs of one token each."""

    def __init__(self, metrics: ServerMetrics, *, steps: int = 3, choices: int = 1, end: str = "stop") -> None:
        self.metrics, self.steps, self.choices, self.end = metrics, steps, choices, end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer once every choice has ended."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        # Each in a task of its own, as choices are merged.
        await asyncio.gather(*(asyncio.create_task(self._choice()) for _ in range(self.choices)))

    async def _choice(self) -> None:
        arrival = time.monotonic()
        with self.metrics.request(arrival, 7) as timer:
            for step in range(self.steps):
                # A batch of four, of which this request has one token.
                parts = [StepPart(step + 1, 4, 4, 1, time.monotonic(), 0.25)]
                timer.tokens(1, arrival if step == 0 else None, parts if timer.sampled else ())
                await asyncio.sleep(0)
            if self.end:
                timer.finish(self.end)


async def run(
    kept: Collector,
    monkeypatch: pytest.MonkeyPatch,
    app: App,
    count: int,
    *,
    path: str = COMPLETIONS,
    flags: str = "01",
) -> list[Span]:
    """The spans of one request."""
    for name, value in kept.environment.items():
        monkeypatch.setenv(name, value)
    traced = Tracing("tiny")
    headers = [(b"traceparent", f"00-{TRACE}-{PARENT}-{flags}".encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "state": {"request_id": "r-1"}}

    async def nothing(*_: Any) -> None: ...

    await traced.around(app)(scope, nothing, nothing)
    await traced.close()
    return kept.wait(count)


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


async def test_a_request_has_a_span_and_its_choice_one_for_queue_prefill_and_decode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with collector() as kept:
        spans = await run(kept, monkeypatch, App(ServerMetrics("tiny")), 4)
    (server,) = named(spans, "text_completion tiny")
    engine = [span for name in ("queue", "prefill", "decode") for span in named(spans, f"engine.{name}")]
    assert (server.trace_id, server.parent_id) == (TRACE, PARENT)
    assert {span.parent_id for span in engine} == {server.span_id}
    assert [span.begin for span in engine] == sorted(span.begin for span in engine)
    assert server.attributes["gen_ai.usage.input_tokens"] == 7
    assert server.attributes["gen_ai.usage.output_tokens"] == 3
    assert server.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert server.attributes["ryzanstein.request.id"] == "r-1"
    assert [span.attributes.get("ryzanstein.engine.steps") for span in engine] == [None, 1, 2]
    assert [[name for name, _ in span.events] for span in engine] == [[], ["step"], ["step", "step"]]


async def test_the_engines_spans_tell_of_the_steps_that_the_request_took_part_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with collector() as kept:
        spans = await run(kept, monkeypatch, App(ServerMetrics("tiny"), steps=4), 4)
    (prefill,), (decode,) = named(spans, "engine.prefill"), named(spans, "engine.decode")
    steps = [about for _, about in prefill.events + decode.events]
    assert [about.pop("ryzanstein.engine.step") for about in steps] == [1, 2, 3, 4]
    assert steps == 4 * [
        {
            "ryzanstein.engine.batch_size": 4,
            "ryzanstein.engine.step_tokens": 4,
            "ryzanstein.engine.own_tokens": 1,
            "ryzanstein.engine.step_ms": 250.0,
        }
    ]
    sums = {"steps": 3, "steps_ms": 750.0, "longest_step_ms": 250.0, "mean_batch_size": 4.0}
    assert {name: decode.attributes[f"ryzanstein.engine.{name}"] for name in sums} == sums


async def test_a_long_answer_has_a_bounded_number_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as kept:
        spans = await run(kept, monkeypatch, App(ServerMetrics("tiny"), steps=500), 4)
    (decode,) = named(spans, "engine.decode")
    assert len(decode.events) == MAX_STEP_EVENTS
    assert decode.attributes["ryzanstein.engine.steps"] == 499
    assert decode.attributes["gen_ai.usage.output_tokens"] == 500


async def test_each_choice_has_spans_of_its_own_and_the_request_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as kept:
        spans = await run(kept, monkeypatch, App(ServerMetrics("tiny"), choices=3), 10, path=CHAT_COMPLETIONS)
    (server,) = named(spans, "chat tiny")
    assert len(named(spans, "engine.decode")) == 3
    assert server.attributes["gen_ai.usage.output_tokens"] == 9
    assert "gen_ai.usage.input_tokens" not in server.attributes, "choices may share a prompt"


@pytest.mark.parametrize(("end", "status"), [("error", ERROR), ("", 0)])
async def test_an_end_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, end: str, status: int) -> None:
    with collector() as kept:
        spans = await run(kept, monkeypatch, App(ServerMetrics("tiny"), end=end), 4)
    (decode,) = named(spans, "engine.decode")
    assert decode.attributes["gen_ai.response.finish_reasons"] == [end or "abort"]
    assert decode.status == status


async def test_a_request_that_never_ran_has_its_wait_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as kept:
        spans = await run(kept, monkeypatch, App(ServerMetrics("tiny"), steps=0, end=""), 2)
    assert {span.name for span in spans} == {"text_completion tiny", "engine.queue"}


async def test_what_the_caller_does_not_sample_is_not_sent_and_other_paths_have_no_span(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with collector() as kept:
        assert await run(kept, monkeypatch, App(ServerMetrics("tiny")), 0, flags="00") == []
        assert await run(kept, monkeypatch, App(ServerMetrics("tiny")), 0, path=METRICS) == []


async def test_without_a_trace_the_engine_is_told_of_none() -> None:
    assert tracing.current() is None
    with ServerMetrics("tiny").request(time.monotonic(), 7) as timer:
        assert timer._trace is None


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_turn_traces_on_and_off(environ: dict[str, str], wanted: bool) -> None:
    assert is_enabled(environ) is wanted
