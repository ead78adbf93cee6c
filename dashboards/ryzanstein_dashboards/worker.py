"""The page on one worker pod: its engine's steps, its cache, its requests, its start."""

from typing import Final

from ryzanstein_dashboards.model import Dashboard, Kind, Panel, Query, Row, Step, Variable
from ryzanstein_dashboards.promql import aggregated, mean, quantile, rate, select
from ryzanstein_dashboards.shapes import FULL, TOKENS_A_SECOND, line, quantiles, stat

_POD: Final = 'namespace="$namespace", inference_service="$inference_service", pod="$pod"'
_ALONE: Final = "one rank works alone"

VARIABLES: Final = (
    Variable("namespace", "Namespace", "ryzanstein_num_requests_running", "namespace"),
    Variable(
        "inference_service",
        "InferenceService",
        'ryzanstein_num_requests_running{namespace="$namespace"}',
        "inference_service",
    ),
    Variable(
        "pod",
        "Pod",
        'ryzanstein_num_requests_running{namespace="$namespace", inference_service="$inference_service"}',
        "pod",
    ),
)


def _most(metric: str, by: str = "") -> str:
    return aggregated("max", select(metric, _POD), by)


_NOW: Final = Row(
    "Now",
    (
        stat("Running requests", "Requests in the batch.", "short", _most("ryzanstein_num_requests_running")),
        stat("Waiting requests", "Requests in the engine's queue.", "short", _most("ryzanstein_num_requests_waiting")),
        stat("Generated tokens", "Tokens that are generated.", TOKENS_A_SECOND,
             rate("ryzanstein_generation_tokens_total", _POD)),
        stat("Cache in use", "Share of key-value blocks in use.", "percentunit",
             _most("ryzanstein_kv_cache_usage_perc"), steps=FULL),
        stat("Silence of the slowest rank", "For how long the slowest rank has not moved. Above 30 s the engine is "
             "wedged.", "s", _most("ryzanstein_engine_heartbeat_age_seconds")),
        stat("Accelerators", "1 while all of the pod's accelerators can be used, 0 once one cannot.", "short",
             aggregated("min", select("ryzanstein_accelerator_healthy", _POD)), quiet="the pod runs on CPU", base="red",
             steps=(Step(1, "green"),)),
    ),
)  # fmt: skip

_ENGINE: Final = Row(
    "Engine",
    (
        line(
            "Time of a step",
            "95th percentile of the time of one step, by what it computed: prompts, single tokens, or both.",
            "s",
            quantile(0.95, "ryzanstein_engine_step_time_seconds", _POD, "phase"),
            "{{phase}}",
        ),
        Panel(
            "Steps",
            "Steps of the engine, by what they computed.",
            "ops",
            (Query(rate("ryzanstein_engine_step_time_seconds_count", _POD, "phase"), "{{phase}}"),),
            kind=Kind.STACK,
        ),
        Panel(
            "Tokens of a step",
            "How many tokens one step computes: the batch as the accelerator sees it.",
            "short",
            (
                Query(mean("ryzanstein_engine_step_tokens", _POD), "mean"),
                Query(quantile(0.95, "ryzanstein_engine_step_tokens", _POD), "95th percentile"),
            ),
        ),
        line(
            "Time with the other ranks",
            "Share of the time that each rank spends in collectives. The slowest has least: others wait for it.",
            "percentunit",
            rate("ryzanstein_collective_time_seconds_sum", _POD, "rank, op"),
            "rank {{rank}} {{op}}",
            quiet=_ALONE,
        ),
        line(
            "Time of a collective",
            "Mean time of one collective of the ranks, by kind.",
            "s",
            mean("ryzanstein_collective_time_seconds", _POD, "op"),
            "{{op}}",
            quiet=_ALONE,
        ),
        line(
            "Busy",
            "Share of the time that the engine spends in steps. Near 100 % it cannot do more.",
            "percentunit",
            rate("ryzanstein_engine_step_time_seconds_sum", _POD),
            "in steps",
        ),
    ),
)

_CACHE: Final = Row(
    "Key-value cache",
    (
        Panel(
            "Blocks",
            "Blocks of the key-value cache in use, and all.",
            "short",
            (
                Query(f"{_most('ryzanstein_kv_blocks')} - {_most('ryzanstein_kv_blocks_free')}", "in use"),
                Query(_most("ryzanstein_kv_blocks"), "all"),
            ),
        ),
        Panel(
            "Prefix cache",
            "Prompt tokens that were looked up in the prefix cache, and those that were found.",
            TOKENS_A_SECOND,
            (
                Query(rate("ryzanstein_prefix_cache_queries_total", _POD), "looked up"),
                Query(rate("ryzanstein_prefix_cache_hits_total", _POD), "found"),
            ),
        ),
        line(
            "Preemptions",
            "Requests that lost their blocks to others and are computed again.",
            "ops",
            rate("ryzanstein_num_preemptions_total", _POD),
            "preemptions",
        ),
    ),
)

_REQUESTS: Final = Row(
    "Requests",
    (
        quantiles("Time to first token", "From a request's arrival here to its first token.",
                  "ryzanstein_time_to_first_token_seconds", _POD),
        quantiles("Time between tokens", "From one token of a request to the next.",
                  "ryzanstein_inter_token_latency_seconds", _POD),
        Panel(
            "Where the time goes",
            "Mean time of a request in the queue, until its first token, and from there to its last.",
            "s",
            (
                Query(mean("ryzanstein_request_queue_time_seconds", _POD), "queue"),
                Query(mean("ryzanstein_request_prefill_time_seconds", _POD), "prefill"),
                Query(mean("ryzanstein_request_decode_time_seconds", _POD), "decode"),
            ),
            kind=Kind.STACK,
        ),
        Panel(
            "Tokens",
            "Prompt tokens that were taken in, and tokens that were generated.",
            TOKENS_A_SECOND,
            (
                Query(rate("ryzanstein_prompt_tokens_total", _POD), "prompt"),
                Query(rate("ryzanstein_generation_tokens_total", _POD), "generated"),
            ),
        ),
        Panel(
            "Ended requests",
            "By reason: stop, length, abort (the client has gone), error.",
            "reqps",
            (Query(rate("ryzanstein_request_success_total", _POD, "finished_reason"), "{{finished_reason}}"),),
            kind=Kind.STACK,
        ),
        Panel(
            "Requests in the engine",
            "In the batch, and in the queue.",
            "short",
            (
                Query(_most("ryzanstein_num_requests_running"), "running"),
                Query(_most("ryzanstein_num_requests_waiting"), "waiting"),
            ),
        ),
        line(
            "Refused requests",
            "Requests that were answered with an error before anything of them ran, by reason.",
            "reqps",
            rate("ryzanstein_requests_refused_total", _POD, "reason"),
            "{{reason}}",
        ),
        line(
            "Aborted requests",
            "Requests that ended before their answer was whole, by cause.",
            "reqps",
            rate("ryzanstein_requests_aborted_total", _POD, "cause"),
            "{{cause}}",
        ),
        Panel(
            "Size of requests",
            "Tokens of a request: one in twenty has more.",
            "short",
            tuple(
                Query(quantile(0.95, f"ryzanstein_request_{kind}_tokens", _POD), f"{kind}, 95th percentile")
                for kind in ("prompt", "generation")
            ),
        ),
    ),
)  # fmt: skip

_START: Final = Row(
    "Start",
    (
        line(
            "Time of the start by stage",
            "How long each stage of the last start took, of the slowest rank.",
            "s",
            _most("ryzanstein_model_load_seconds", "stage"),
            "{{stage}}",
            span=12,
        ),
        line(
            "Version",
            "1 for what runs.",
            "short",
            _most("ryzanstein_worker_info", "version"),
            "{{version}}",
            span=12,
        ),
    ),
)

WORKER: Final = Dashboard(
    uid="ryzanstein-worker",
    title="Ryzanstein: one worker",
    description="One worker pod: its engine's steps, its cache, its requests, its start.",
    rows=(_NOW, _ENGINE, _CACHE, _REQUESTS, _START),
    variables=VARIABLES,
)
