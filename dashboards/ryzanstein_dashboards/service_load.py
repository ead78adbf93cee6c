"""Of the page on one service: what its replicas do with their requests."""

from typing import Final

from ryzanstein_dashboards.model import Kind, Panel, Query, Row
from ryzanstein_dashboards.promql import aggregated, mean, quantile, rate, select
from ryzanstein_dashboards.shapes import FULL, TOKENS_A_SECOND, line, quantiles

WORKERS: Final = 'namespace="$namespace", inference_service="$inference_service"'
GATEWAY: Final = 'model="$model"'


def of_workers(function: str, metric: str, by: str = "") -> str:
    """Of the service's replicas."""
    return aggregated(function, select(metric, WORKERS), by)


LATENCY: Final = Row(
    "Latency in the replicas",
    (
        quantiles(
            "Time to first token",
            "From a request's arrival at a replica to its first token.",
            "ryzanstein_time_to_first_token_seconds",
            WORKERS,
        ),
        quantiles(
            "Time between tokens",
            "From one token of a request to the next.",
            "ryzanstein_inter_token_latency_seconds",
            WORKERS,
        ),
        quantiles(
            "Whole request",
            "From a request's arrival at a replica to its last token.",
            "ryzanstein_e2e_request_latency_seconds",
            WORKERS,
        ),
        Panel(
            "Where the time goes",
            "Mean time of a request in a replica's queue, until its first token, and from there to its last.",
            "s",
            (
                Query(mean("ryzanstein_request_queue_time_seconds", WORKERS), "queue"),
                Query(mean("ryzanstein_request_prefill_time_seconds", WORKERS), "prefill"),
                Query(mean("ryzanstein_request_decode_time_seconds", WORKERS), "decode"),
            ),
            kind=Kind.STACK,
        ),
        quantiles(
            "Time per output token",
            "A request's time after its first token, divided by its further tokens.",
            "ryzanstein_request_time_per_output_token_seconds",
            WORKERS,
        ),
        Panel(
            "Ended requests",
            "Requests that ended in a replica, by reason: stop, length, abort (the client has gone), error.",
            "reqps",
            (Query(rate("ryzanstein_request_success_total", WORKERS, "finished_reason"), "{{finished_reason}}"),),
            kind=Kind.STACK,
        ),
    ),
)

LOAD: Final = Row(
    "Load",
    (
        Panel(
            "Requests in the system",
            "Running in the replicas, waiting in them, and held by the gateways.",
            "short",
            (
                Query(of_workers("sum", "ryzanstein_num_requests_running"), "running"),
                Query(of_workers("sum", "ryzanstein_num_requests_waiting"), "waiting in replicas"),
                Query(aggregated("sum", select("ryzanstein_gateway_queue_length", GATEWAY), "priority"),
                      "at the gateways, {{priority}} priority", "no request has had to wait yet"),
            ),
        ),
        Panel(
            "Tokens",
            "Prompt tokens that were taken in, and tokens that were generated.",
            TOKENS_A_SECOND,
            (
                Query(rate("ryzanstein_prompt_tokens_total", WORKERS), "prompt"),
                Query(rate("ryzanstein_generation_tokens_total", WORKERS), "generated"),
            ),
        ),
        Panel(
            "Size of requests",
            "Tokens of a request: half of all have fewer, one in twenty has more.",
            "short",
            tuple(
                Query(quantile(share, f"ryzanstein_request_{kind}_tokens", WORKERS), f"{kind}, {words}")
                for kind in ("prompt", "generation")
                for share, words in ((0.5, "median"), (0.95, "95th percentile"))
            ),
        ),
        Panel(
            "Key-value cache in use",
            "Share of key-value blocks in use, of each replica. Near 100 % requests are preempted.",
            "percentunit",
            (Query(of_workers("max", "ryzanstein_kv_cache_usage_perc", "pod"), "{{pod}}"),),
            steps=FULL, maximum=1,
        ),
        Panel(
            "Prefix cache hits",
            "Share of prompt tokens whose keys and values were there already.",
            "percentunit",
            (Query(f"{rate('ryzanstein_prefix_cache_hits_total', WORKERS)}"
                   f" / {rate('ryzanstein_prefix_cache_queries_total', WORKERS)}", "hits"),),
            maximum=1,
        ),
        line(
            "Preemptions",
            "Requests that lost their blocks to others and are computed again.",
            "ops",
            rate("ryzanstein_num_preemptions_total", WORKERS, "pod"),
            "{{pod}}",
        ),
    ),
)  # fmt: skip
