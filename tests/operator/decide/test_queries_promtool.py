"""What the queries mean, as Prometheus' own engine computes them: over series with the labels that the chart gives."""

import json
from pathlib import Path
from typing import Any

import pytest

from realprometheus import promtool
from ryzanstein_operator.api.autoscaling import Target
from ryzanstein_operator.decide.queries import Place, activity, query_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]  # promtool comes with the cluster's programs

PLACE = Place("team", "chat", 'org/"chat"', "release")
Series = dict[str, str]


def worker(name: str, pod: str, service: str = "chat", namespace: str = "team", **more: str) -> str:
    labels = {"job": "ryzanstein-worker", "namespace": namespace, "pod": pod, "inference_service": service}
    return _series(name, labels | {"model_name": "m"} | more)


def gateway(name: str, pod: str = "g-0", namespace: str = "release", **more: str) -> str:
    return _series(name, {"job": "ryzanstein-gateway", "namespace": namespace, "pod": pod} | more)


def _series(name: str, labels: dict[str, str]) -> str:
    return f"{name}{{{','.join(f'{key}={json.dumps(value)}' for key, value in labels.items())}}}"


def computed(query: str, series: Series, at: str, expected: dict[str, float], folder: Path) -> None:
    """Holds promtool to it that `query` gives these parts at that time. Values are scraped every five seconds."""
    test = {
        "interval": "5s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": at,
                "exp_samples": [{"labels": f'{{part="{part}"}}', "value": value} for part, value in expected.items()],
            }
        ],
    }
    whole: dict[str, Any] = {"rule_files": [], "evaluation_interval": "5s", "tests": [test]}
    (folder / "test.yaml").write_text(json.dumps(whole))
    said = promtool("test", "rules", str(folder / "test.yaml"))
    assert said.returncode == 0, said.stdout + said.stderr


def query(metric: str) -> str:
    return query_of(Target.model_validate({"metric": metric, "value": 5}), PLACE)


QUEUE = "ryzanstein_gateway_queue_length"
MODEL = {"model": PLACE.model}
SCRAPED = {gateway("up"): "1x24", gateway("up", "g-1"): "1x24"}
WAITS = "ryzanstein_num_requests_waiting"


def test_waiting_requests_are_those_in_the_replicas_and_at_the_gateways_of_this_service(tmp_path: Path) -> None:
    series = SCRAPED | {
        worker(WAITS, "a"): "3x24",
        worker(WAITS, "b"): "4x24",
        worker(WAITS, "c", service="other"): "100x24",
        worker(WAITS, "d", namespace="elsewhere"): "100x24",
        gateway(QUEUE, priority="high", **MODEL): "2x24",
        gateway(QUEUE, "g-1", priority="low", **MODEL): "1x24",
        gateway(QUEUE, model="other"): "100x24",
        gateway(QUEUE, namespace="elsewhere", **MODEL): "100x24",
    }
    computed(query("WaitingRequests"), series, "1m", {"value": 10, "replicas": 2, "gateways": 2}, tmp_path)


def test_without_replicas_those_at_the_gateways_are_left(tmp_path: Path) -> None:
    series = SCRAPED | {gateway(QUEUE, **MODEL): "7x24"}
    computed(query("WaitingRequests"), series, "1m", {"value": 7, "gateways": 2}, tmp_path)


def test_a_scrape_that_is_dead_for_thirty_seconds_counts_no_more(tmp_path: Path) -> None:
    series = SCRAPED | {worker(WAITS, "a"): "3x24", worker(WAITS, "b"): "4x4"}
    text = query("WaitingRequests")
    computed(text, series, "45s", {"value": 7, "replicas": 2, "gateways": 2}, tmp_path)
    computed(text, series, "55s", {"value": 3, "replicas": 1, "gateways": 2}, tmp_path)


def test_a_gateway_that_cannot_be_scraped_is_not_counted(tmp_path: Path) -> None:
    series = {gateway("up"): "1x24", gateway("up", "g-1"): "0x24", worker(WAITS, "a"): "3x24"}
    computed(query("WaitingRequests"), series, "1m", {"value": 3, "replicas": 1, "gateways": 1}, tmp_path)


def test_the_cache_is_the_replicas_mean_in_percent(tmp_path: Path) -> None:
    usage = "ryzanstein_kv_cache_usage_perc"
    series = {worker(usage, "a"): "0.25x24", worker(usage, "b"): "0.75x24", worker(usage, "c", service="x"): "1x24"}
    computed(query("KVCacheUsagePercent"), series, "1m", {"value": 50, "replicas": 2}, tmp_path)


def test_tokens_are_summed_over_the_replicas_that_are_scraped(tmp_path: Path) -> None:
    tokens = "ryzanstein_generation_tokens_total"
    series = {worker(tokens, "a"): "0+50x40", worker(tokens, "b"): "0+100x40", worker(tokens, "c"): "0+500x12"}
    text = query("TokensPerSecond")
    computed(text, series, "1m", {"value": 130, "replicas": 3}, tmp_path)
    computed(text, series, "1m35s", {"value": 30, "replicas": 2}, tmp_path)


def test_the_latency_is_the_95th_percentile_in_milliseconds(tmp_path: Path) -> None:
    name = "ryzanstein_time_to_first_token_seconds"
    series = {
        worker(f"{name}_bucket", "a", le="1"): "0+90x24",
        worker(f"{name}_bucket", "a", le="2"): "0+100x24",
        worker(f"{name}_bucket", "a", le="+Inf"): "0+100x24",
        worker(f"{name}_count", "a"): "0+100x24",
    }
    computed(query("TimeToFirstTokenMillis"), series, "1m", {"value": 1500, "replicas": 1}, tmp_path)


def test_without_requests_there_is_no_latency_and_the_replicas_are_counted(tmp_path: Path) -> None:
    name = "ryzanstein_time_to_first_token_seconds"
    series = {
        worker(f"{name}_bucket", "a", le="1"): "5x24",
        worker(f"{name}_bucket", "a", le="+Inf"): "5x24",
        worker(f"{name}_count", "a"): "5x24",
    }
    computed(query("TimeToFirstTokenMillis"), series, "1m", {"replicas": 1}, tmp_path)


def test_after_one_scrape_nobody_knows_whether_there_were_requests(tmp_path: Path) -> None:
    """As when Prometheus itself has just begun: a latency of 0 would call for fewer replicas."""
    name = "ryzanstein_time_to_first_token_seconds"
    series = {
        worker(f"{name}_bucket", "a", le="1"): "_x11 90",
        worker(f"{name}_bucket", "a", le="+Inf"): "_x11 100",
        worker(f"{name}_count", "a"): "_x11 100",
    }
    computed(query("TimeToFirstTokenMillis"), series, "1m", {}, tmp_path)


RUNS = "ryzanstein_num_requests_running"
ENDED = "ryzanstein_request_success_total"


@pytest.mark.parametrize(
    ("series", "busy"),
    [
        ({worker(RUNS, "a"): "0x40", worker(ENDED, "a", finished_reason="stop"): "3x40"}, False),
        ({worker(RUNS, "a"): "0x10 1 0x29"}, True),
        ({worker(WAITS, "a"): "0x10 1 0x29"}, True),
        ({worker(ENDED, "a", finished_reason="stop"): "3x20 4x20"}, True),
        ({gateway(QUEUE, **MODEL): "0x20 2 0x20"}, True),
        ({worker(RUNS, "a", service="other"): "5x40", gateway(QUEUE, model="other"): "5x40"}, False),
        ({}, False),
    ],
)
def test_activity_is_any_request_within_the_time(series: Series, busy: bool, tmp_path: Path) -> None:
    text = f"({activity(PLACE, 180)}) > bool 0"
    scraped = {gateway("up"): "1x40", gateway("up", "g-1"): "1x40"}
    computed(text, scraped | series, "3m", {"value": float(busy), "gateways": 1}, tmp_path)


def test_activity_of_before_is_over(tmp_path: Path) -> None:
    series = SCRAPED | {worker(RUNS, "a"): "1 0x24"}
    computed(f"({activity(PLACE, 60)}) > bool 0", series, "1m10s", {"value": 0, "gateways": 1}, tmp_path)
