#!/usr/bin/env python3
"""Writes docs/metrics.md: every metric of worker, gateway and operator, from their registries.

python scripts/metrics_docs.py

Fails where a metric has no sentence for HELP, or a label that LABELS does not explain.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "support"))

from registries import PARTS, Family, families, undocumented_names  # noqa: E402 (found by the path above)
from ryzanstein_worker import contract  # noqa: E402 (needs no path, but sorts here)

LABELS: Final = {
    "worker": {
        "model_name": "the name that clients ask for",
        "finished_reason": "stop, length, abort (the client has gone) or error",
        "phase": "what a step computed: prefill (prompts), decode (a token of each request) or mixed",
        "op": "the collective: all_reduce, gather or broadcast",
        "stage": "of the start: process, group, weights, profile, kv_cache or warm_up",
        "version": "of the program",
        "rank": "the rank, from 0",
        "reason": "why, in one word",
        "cause": "client, crash or drain",
        "torch_version": "of torch",
        "model_type": "the model's family, as its config.json names it",
        "device": "cpu or cuda",
        "dtype": "of the weights",
        "tensor_parallel_size": "ranks of the group",
        "nnodes": "pods of the group",
        "node_rank": "the pod's place in its group, from 0",
    },
    "gateway": {
        "model": "a name of the route table; empty where a request named none of them",
        "code": "the HTTP status; 499 where the client left first",
        "protocol": "http, websocket or grpc",
        "priority": "high, normal or low",
        "outcome": "what became of the request, or of the call",
        "policy": "spec.routing.policy",
        "why": "what decided a choice: only, turn, load, prefix, spilled or fail_open",
        "reason": "why, in one word",
        "endpoint": "the replica's pod",
        "watch": "what is watched",
        "version": "of the program",
    },
    "operator": {
        "namespace": "of the InferenceService",
        "name": "of the InferenceService",
        "result": "done, retry, failed or not_leading",
        "kind": "of the object",
        "verb": "as Kubernetes names it",
        "code": "class of the answer's status: 2xx, 4xx, 5xx, or none where no answer came",
        "condition": "a condition of the InferenceService",
        "status": "True, False or Unknown",
        "reason": "why a node counts as unhealthy",
        "direction": "up, down, same, or held where the targets could not be read",
        "why": "what was wrong with an answer of Prometheus",
        "version": "of the program",
    },
}
TITLES: Final = {"worker": "Workers", "gateway": "Gateways", "operator": "Operator"}
NAMED_OTHERWISE: Final = {contract.ENGINE_STEP_TOKENS: "vllm:iteration_tokens_total"}
"""vLLM's counterparts that do not have the same suffix."""
IN_VLLM: Final = (
    contract.NUM_REQUESTS_RUNNING,
    contract.NUM_REQUESTS_WAITING,
    contract.KV_CACHE_USAGE_PERC,
    contract.NUM_PREEMPTIONS,
    contract.PREFIX_CACHE_QUERIES,
    contract.PREFIX_CACHE_HITS,
    contract.PROMPT_TOKENS,
    contract.GENERATION_TOKENS,
    contract.REQUEST_SUCCESS,
    contract.TIME_TO_FIRST_TOKEN,
    contract.INTER_TOKEN_LATENCY,
    contract.E2E_REQUEST_LATENCY,
    contract.REQUEST_QUEUE_TIME,
    contract.REQUEST_PREFILL_TIME,
    contract.REQUEST_DECODE_TIME,
    contract.REQUEST_PROMPT_TOKENS,
    contract.REQUEST_GENERATION_TOKENS,
    contract.REQUEST_TIME_PER_OUTPUT_TOKEN,
)
"""vLLM has these under its own prefix."""
UNITS: Final = (
    ("timestamp_seconds", "Unix s"),
    ("seconds", "s"),
    ("bytes", "bytes"),
    ("tokens", "tokens"),
    ("perc", "0 to 1"),
    ("blocks", "blocks"),
    ("blocks_free", "blocks"),
)


def faults(metrics: list[Family]) -> Iterator[str]:
    """What keeps the page from being complete, a sentence each."""
    for one in metrics:
        if not one.text.endswith(".") or len(one.text.split()) < 2:
            yield f"{one.name}: HELP is no sentence: {one.text!r}."
        for label in one.labels:
            if label not in LABELS[one.part]:
                yield f"{one.name}: label {label} of the {one.part} is not explained in scripts/metrics_docs.py."
    for name in undocumented_names():
        yield f"{name}: named in the source, but no registry that tests/support/registries.py makes has it."


def table(metrics: list[Family], *, vllm: bool) -> Iterator[str]:
    """One line for each metric."""
    yield "| metric | type | unit | labels | is |" + (" vLLM's |" if vllm else "")
    yield "| --- | --- | --- | --- | --- |" + (" --- |" if vllm else "")
    for one in metrics:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        text = one.text.replace("|", "\\|")
        cells = [f"`{one.shown}`", one.kind, unit(one), labels, text, *([counterpart(one)] if vllm else [])]
        yield "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def unit(metric: Family) -> str:
    """As the name says it; empty for a plain number."""
    return next((words for end, words in UNITS if metric.name.endswith(f"_{end}")), "")


def counterpart(metric: Family) -> str:
    """vLLM's name of the same, or nothing."""
    same = f"vllm:{metric.shown.removeprefix('ryzanstein_')}" if metric.name in IN_VLLM else ""
    name = NAMED_OTHERWISE.get(metric.name, same)
    return f"`{name}`" if name else ""


def page(metrics: list[Family]) -> Iterator[str]:
    """The whole page, line by line."""
    yield from INTRODUCTION.splitlines()
    for part in PARTS:
        own = [one for one in metrics if one.part == part]
        yield from ("", f"## {TITLES[part]}", "")
        yield from table(own, vllm=part == "worker")
        yield from ("", "| label | is |", "| --- | --- |")
        used = {label for one in own for label in one.labels}
        yield from (f"| `{name}` | {text} |" for name, text in LABELS[part].items() if name in used)


INTRODUCTION: Final = f"""# Metrics

Generated by scripts/metrics_docs.py from the registries of the code itself. What to do with them:
[observability.md](observability.md); dashboards and alerts are made of them.

Read at `:{contract.HEALTH_PORT}{contract.METRICS}` of every pod, in Prometheus' text format, or in OpenMetrics' where
the reader asks for it: that one has exemplars. A histogram `x` has the series `x_bucket` (with `le`), `x_sum` and
`x_count`, a summary the last two; some pages add `x_created`, when a series began, in Unix seconds. No metric ever
holds a prompt, an answer or a key, and nothing that a client sends adds a series.

Prometheus adds, by the chart's own configuration or by that of the PodMonitors:

| label | is |
| --- | --- |
| `job` | `{contract.JOB_WORKER}`, `{contract.JOB_GATEWAY}` or `{contract.JOB_OPERATOR}` |
| `{contract.SERIES_NAMESPACE}` | of the pod; the operator's own label, where a metric has it, stays (`honor_labels`) |
| `{contract.SERIES_POD}` | the pod |
| `{contract.SERIES_SERVICE}` | on workers: the InferenceService |"""


def main() -> int:
    """Write the page; 1, and what is missing, where it would not be complete."""
    metrics = families()
    found = list(faults(metrics))
    if found:
        print("\n".join(found), file=sys.stderr)
        return 1
    path = ROOT / "docs" / "metrics.md"
    path.write_text("\n".join(page(metrics)) + "\n", encoding="utf-8")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
