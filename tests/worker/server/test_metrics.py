"""Metrics: vLLM's names and rules of timing."""

import contextlib
import re
from collections.abc import AsyncGenerator

import pytest

from engine_requests import add_request
from ryzanstein_worker.engine.request import AddRequest, TokenOutput
from ryzanstein_worker.engine.status import EngineStats
from ryzanstein_worker.server import errors
from ryzanstein_worker.server.generate import Choice, Delta, follow
from ryzanstein_worker.telemetry import metrics as metrics_module
from ryzanstein_worker.telemetry.metrics import ServerMetrics


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(metrics_module, "time", clock)
    return clock


def _read(metrics: ServerMetrics, name: str) -> float:
    match = re.search(rf"^ryzanstein_{re.escape(name)} (\S+)$", metrics.render().decode(), re.M)
    assert match, metrics.render().decode()
    return float(match[1])


def test_one_request_from_arrival_to_last_token(clock: Clock) -> None:
    metrics = ServerMetrics("m")
    with metrics.request(arrival=99.0, num_prompt_tokens=7) as timer:
        clock.now = 102.0
        timer.tokens(1, first_scheduled=100.5)
        clock.now = 104.0
        timer.tokens(4)
        timer.finish("stop")
    sums = {"time_to_first_token": 3.0, "request_queue_time": 1.5, "request_prefill_time": 1.5,
            "inter_token_latency": 0.5, "e2e_request_latency": 5.0, "request_decode_time": 2.0}  # fmt: skip
    for name, seconds in sums.items():
        assert _read(metrics, f'{name}_seconds_sum{{model_name="m"}}') == seconds
    assert _read(metrics, 'prompt_tokens_total{model_name="m"}') == 7
    assert _read(metrics, 'generation_tokens_total{model_name="m"}') == 5
    assert _read(metrics, 'request_success_total{finished_reason="stop",model_name="m"}') == 1
    assert _read(metrics, 'request_success_total{finished_reason="abort",model_name="m"}') == 0


def test_a_request_that_was_left_counts_as_aborted_and_not_as_quick(clock: Clock) -> None:
    metrics = ServerMetrics("m")
    with metrics.request(arrival=99.0, num_prompt_tokens=1) as timer:
        timer.tokens(1)
    assert _read(metrics, 'request_success_total{finished_reason="abort",model_name="m"}') == 1
    assert _read(metrics, 'e2e_request_latency_seconds_count{model_name="m"}') == 0


def test_the_engines_numbers_are_those_of_the_scrape() -> None:
    metrics = ServerMetrics("m")
    stats = [EngineStats(running=1, waiting=2, kv_cache_usage=0.25, prefix_queries=10, prefix_hits=4, preemptions=3)]
    metrics.watch(lambda: stats[0])
    expected = {"num_requests_running": 1, "num_requests_waiting": 2, "kv_cache_usage_perc": 0.25,
                "prefix_cache_queries_total": 10, "prefix_cache_hits_total": 4, "num_preemptions_total": 3}  # fmt: skip
    for name, value in expected.items():
        assert _read(metrics, f'{name}{{model_name="m"}}') == value
    stats[0] = EngineStats(running=5)
    assert _read(metrics, 'num_requests_running{model_name="m"}') == 5


def test_a_request_that_ends_well_tells_its_sizes_and_its_pace(clock: Clock) -> None:
    metrics = ServerMetrics("m")
    for prompt, tokens in ((7, 5), (3, 1)):
        with metrics.request(arrival=99.0, num_prompt_tokens=prompt) as timer:
            clock.now = 102.0
            timer.tokens(1, first_scheduled=100.5)
            clock.now = 104.0
            timer.tokens(tokens - 1)
            timer.finish("length")
    sums = {
        "request_prompt_tokens_sum": 10,
        "request_prompt_tokens_count": 2,
        "request_generation_tokens_sum": 6,
        "request_time_per_output_token_seconds_sum": 0.5,
        "request_time_per_output_token_seconds_count": 1,
    }
    assert {name: _read(metrics, f'{name}{{model_name="m"}}') for name in sums} == sums


def _counts(metrics: ServerMetrics, name: str) -> dict[str, float]:
    line = rf'^ryzanstein_{name}_total{{(?:model_name="m",)?\w+="(\w+)".*}} (\S+)$'
    found = re.findall(line, metrics.render().decode(), re.M)
    return {label: float(value) for label, value in found if float(value)}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.not_started("draining", ""), "draining"),
        (errors.not_started("overloaded", ""), "overloaded"),
        (errors.quarantined(), "quarantined"),
        (errors.context_exceeded(8, 9, None), "too_long"),
        (errors.model_not_found("m"), "unknown_model"),
        (errors.ApiError(413, ""), "too_large"),
        (errors.ApiError(408, ""), "too_slow"),
        (errors.ApiError(400, "", code="invalid_value"), "invalid"),
        (errors.internal(), "failed"),
    ],
)
def test_each_refusal_has_its_reason(error: errors.ApiError, reason: str) -> None:
    assert not error.started
    assert error.refused == reason
    metrics = ServerMetrics("m")
    metrics.refused(error.refused)
    assert _counts(metrics, "requests_refused") == {reason: 1}


@pytest.mark.parametrize(
    ("error", "ended", "aborted"),
    [
        (errors.not_started("overloaded", ""), {}, {}),
        (errors.engine_lost("crash"), {"abort": 1}, {"crash": 1}),
        (errors.engine_lost("drain"), {"abort": 1}, {"drain": 1}),
        (errors.engine_failed(), {"error": 1}, {}),
        (None, {"abort": 1}, {"client": 1}),
    ],
)
async def test_how_the_engine_ends_a_request_is_how_it_counts(
    error: errors.ApiError | None, ended: dict[str, float], aborted: dict[str, float]
) -> None:
    class Engine:
        async def generate(self, request: AddRequest) -> AsyncGenerator[TokenOutput, None]:
            yield TokenOutput(request_id="r", token_ids=[])
            if error is not None:
                raise error

    class Untold(Choice):
        def __init__(self) -> None:
            self.request = add_request([1, 2, 3])

        def push(self, output: TokenOutput) -> Delta:
            return Delta(0, "", (), tuple(output.token_ids), 0)

    metrics = ServerMetrics("m")
    with contextlib.suppress(errors.ApiError):
        async with contextlib.aclosing(follow(Engine(), Untold(), metrics)) as deltas:
            async for _ in deltas:
                if error is None:
                    break
    assert _counts(metrics, "request_success") == ended
    assert _counts(metrics, "requests_aborted") == aborted
    assert _read(metrics, 'prompt_tokens_total{model_name="m"}') == 0, "no token came"
