"""What the engine did with one choice of an answer, as spans: queue, prefill, decode, and in them the engine's steps.

Made when the choice has ended, from moments that are noted anyway: without a sampled trace a token costs a comparison.
All moments are of the monotonic clock. Bounded: of a span's steps so many are events, of all there are the sums. Knows
counts and moments; is never handed a prompt or a token.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from opentelemetry import context, trace
from opentelemetry.trace import StatusCode

from ryzanstein_worker.engine.request import StepPart

MAX_STEP_EVENTS: Final = 32


class Steps:
    """The steps of one span: the first as events, all of them as sums."""

    def __init__(self) -> None:
        self._kept: list[StepPart] = []
        self._count = 0
        self._seconds = 0.0
        self._longest = 0.0
        self._requests = 0

    def add(self, part: StepPart) -> None:
        """The choice took part in a step."""
        if len(self._kept) < MAX_STEP_EVENTS:
            self._kept.append(part)
        self._count += 1
        self._seconds += part.seconds
        self._longest = max(self._longest, part.seconds)
        self._requests += part.requests

    def tell(self, span: trace.Span, wall: Callable[[float], int]) -> None:
        """Write them into a span. `wall`: nanoseconds since 1970 of a moment."""
        span.set_attribute("ryzanstein.engine.steps", self._count)
        if not self._count:
            return
        span.set_attributes(
            {
                "ryzanstein.engine.steps_ms": _ms(self._seconds),
                "ryzanstein.engine.longest_step_ms": _ms(self._longest),
                "ryzanstein.engine.mean_batch_size": round(self._requests / self._count, 2),
            }
        )
        for part in self._kept:
            span.add_event("step", _about(part), wall(part.begin))


class ChoiceTrace:
    """One choice, beneath its request's span. `ended` is told its tokens and why it ended."""

    def __init__(
        self,
        tracer: trace.Tracer,
        request: trace.Span,
        arrival: float,
        num_prompt_tokens: int,
        ended: Callable[[int, str], None],
    ) -> None:
        span = request.get_span_context()
        self.sampled = span.trace_flags.sampled
        self.trace_id = f"{span.trace_id:032x}"
        self._tracer = tracer
        self._context = trace.set_span_in_context(request, context.Context())
        self._ended = ended
        self._arrival = arrival
        self._num_prompt_tokens = num_prompt_tokens
        self._scheduled: float | None = None
        self._first: float | None = None
        self._last = arrival
        self._longest = 0.0
        self._prefill, self._decode = Steps(), Steps()
        self._tokens = 0
        self._epoch = 0  # of the monotonic clock, in nanoseconds since 1970; one for all, so that spans meet

    def step(self, now: float, tokens: int, first_scheduled: float | None, parts: Sequence[StepPart]) -> None:
        """The engine gave tokens, of one step or of several whose outputs came together."""
        steps = self._prefill if self._first is None else self._decode
        for part in parts:
            steps.add(part)
        if self._first is None:
            self._first, self._scheduled = now, first_scheduled
        else:
            self._longest = max(self._longest, now - self._last)
        self._last = now
        self._tokens += tokens

    def finish(self, reason: str) -> None:
        """No more tokens come."""
        self._ended(self._tokens, reason)
        if not self.sampled:
            return
        now = time.monotonic()
        self._epoch = time.time_ns() - round(now * 1e9)
        queued_until = self._scheduled if self._scheduled is not None else self._first or now
        self._start("engine.queue", self._arrival).end(self._wall(queued_until))
        if self._scheduled is not None and self._first is not None:
            self._tell_prefill(self._scheduled, self._first)
        if self._first is not None:
            self._tell_decode(self._first, reason)

    def _tell_prefill(self, begin: float, end: float) -> None:
        span = self._start("engine.prefill", begin)
        span.set_attribute("gen_ai.usage.input_tokens", self._num_prompt_tokens)
        self._prefill.tell(span, self._wall)
        span.end(self._wall(end))

    def _tell_decode(self, begin: float, reason: str) -> None:
        span = self._start("engine.decode", begin)
        span.set_attributes(
            {
                "gen_ai.usage.output_tokens": self._tokens,
                "gen_ai.response.finish_reasons": [reason],
                "ryzanstein.engine.longest_pause_ms": _ms(self._longest),
            }
        )
        self._decode.tell(span, self._wall)
        if reason in ("error", "abort"):
            span.set_status(StatusCode.ERROR if reason == "error" else StatusCode.UNSET)
        span.end(self._wall(self._last))

    def _start(self, name: str, begin: float) -> trace.Span:
        return self._tracer.start_span(name, self._context, start_time=self._wall(begin))

    def _wall(self, moment: float) -> int:
        return self._epoch + round(moment * 1e9)


def _about(part: StepPart) -> dict[str, Any]:
    return {
        "ryzanstein.engine.step": part.number,
        "ryzanstein.engine.batch_size": part.requests,
        "ryzanstein.engine.step_tokens": part.step_tokens,
        "ryzanstein.engine.own_tokens": part.tokens,
        "ryzanstein.engine.step_ms": _ms(part.seconds),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
