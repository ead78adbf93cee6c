"""Metrics: vLLM's names and rules of timing."""

import re

import pytest

from ryzanstein_worker.engine.status import EngineStats
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
