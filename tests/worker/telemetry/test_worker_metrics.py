"""A real worker of two ranks under load: every metric is there, and the sums are those of what was asked."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from prometheus_client.samples import Sample

from otlp import Collector, collector
from ryzanstein_worker.contract import COMPLETIONS, METRICS, VERSION
from ryzanstein_worker.telemetry.catalogue import catalogue
from tiny_model import write_tiny_model
from worker_process import MODEL_NAME, WorkerProcess, serve_worker

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]

REQUESTS, TOKENS, BLOCKS = 12, 8, 2048
ENDLESS = 8000
"""Tokens that take seconds on any machine: a request for them still runs when a test that was held up leaves it."""
GIVE_UP_SECONDS = 60.0
PLAUSIBLE_SECONDS = 100.0
"""No part of a worker's start or of a request takes as long: the tests have given up by then."""
PROMPTS = [[3 + number, *range(40, 50 + 7 * number)] for number in range(REQUESTS)]
TRACE = "0af7651916cd43dd8448eb211c80319c"
SECRET = "a quick brown secret"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


@dataclass(frozen=True)
class Worker:
    process: WorkerProcess
    traces: Collector


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    model_dir = write_tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=2 * ENDLESS)
    flags = ("--tensor-parallel-size", "2", "--num-kv-blocks", str(BLOCKS), "--block-size", "8", "--max-num-seqs", "8")
    with pytest.MonkeyPatch.context() as patch, collector() as kept:
        for name, value in {**kept.environment, "OTEL_TRACES_SAMPLER": "parentbased_always_off"}.items():
            patch.setenv(name, value)
        with serve_worker(model_dir, *flags, "--max-num-batched-tokens", "32") as process:
            yield Worker(process, kept)


def body(prompt: object, **values: Any) -> dict[str, Any]:
    return {"model": MODEL_NAME, "prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True, **values}


async def ask_all(api: str) -> None:
    async with httpx.AsyncClient(base_url=api, timeout=GIVE_UP_SECONDS) as client:
        answers = await asyncio.gather(*(client.post(COMPLETIONS, json=body(prompt)) for prompt in PROMPTS))
    assert [answer.status_code for answer in answers] == [200] * REQUESTS


def page(worker: Worker, accept: str = "") -> httpx.Response:
    answer = httpx.get(f"{worker.process.health}{METRICS}", headers={"accept": accept}, timeout=GIVE_UP_SECONDS)
    assert answer.status_code == 200
    return answer


@dataclass(frozen=True)
class Page:
    """Samples by name."""

    samples: dict[str, list[Sample]]

    @classmethod
    def of(cls, worker: Worker) -> "Page":
        samples: dict[str, list[Sample]] = {}
        for family in read_text(page(worker).text):
            for sample in family.samples:
                assert sample.labels["model_name"] == MODEL_NAME
                samples.setdefault(sample.name, []).append(sample)
        return cls(samples)

    def __call__(self, name: str, **labels: str) -> float:
        found = [sample for sample in self.samples[f"ryzanstein_{name}"] if labels.items() <= sample.labels.items()]
        assert found, f"no {name} with {labels}"
        return sum(sample.value for sample in found)


def until(worker: Worker, condition: Callable[[Page], bool], what: str) -> Page:
    """The first page for which it holds."""
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while not condition(read := Page.of(worker)):
        assert time.monotonic() < deadline, f"not within {GIVE_UP_SECONDS} s: {what}"
        time.sleep(0.02)
    return read


def until_idle(worker: Worker) -> Page:
    """A page once nothing runs any more, neither of this test nor of the one before."""
    return until(worker, lambda read: read("num_requests_running") == 0 and read("kv_blocks_free") == BLOCKS, "idle")


def test_the_sums_are_those_of_what_was_asked(worker: Worker) -> None:
    assert Page.of(worker)("kv_blocks_free") == BLOCKS, "before the first request"
    asyncio.run(ask_all(worker.process.api))
    read = until_idle(worker)
    prompts, generated = sum(map(len, PROMPTS)), REQUESTS * TOKENS
    assert (read("prompt_tokens_total"), read("generation_tokens_total")) == (prompts, generated)
    assert (read("request_prompt_tokens_sum"), read("request_generation_tokens_sum")) == (prompts, generated)
    assert read("request_success_total", finished_reason="length") == REQUESTS
    per_request = ("time_to_first_token", "e2e_request_latency", "request_queue_time", "request_prefill_time")
    for name in (*per_request, "request_decode_time", "request_time_per_output_token"):
        assert read(f"{name}_seconds_count") == REQUESTS, name
    assert read("inter_token_latency_seconds_count") == REQUESTS * (TOKENS - 1)
    parts = [read(f"request_{part}_time_seconds_sum") for part in ("queue", "prefill", "decode")]
    assert sum(parts) == pytest.approx(read("e2e_request_latency_seconds_sum"), rel=0.01)
    assert read("num_preemptions_total") == 0
    # The last token of each is not computed, nor what was found in the prefix cache.
    computed = prompts - read("prefix_cache_hits_total") + generated - REQUESTS
    assert read("engine_step_tokens_sum") == computed
    assert read("prefix_cache_queries_total") == prompts


def test_the_engines_own_numbers_are_plausible(worker: Worker) -> None:
    read = until_idle(worker)
    steps = read("engine_step_tokens_count")
    assert steps == read("engine_step_time_seconds_count") >= TOKENS
    for phase in ("prefill", "decode", "mixed"):
        assert 0 < read("engine_step_time_seconds_sum", phase=phase) < PLAUSIBLE_SECONDS, phase
    for rank in ("0", "1"):  # the tiny model: once in the embedding, twice in each of its two layers
        assert read("collective_time_seconds_count", op="all_reduce", rank=rank) >= 5 * steps
        assert 0 < read("collective_time_seconds_sum", op="all_reduce", rank=rank) < PLAUSIBLE_SECONDS
        assert 0 <= read("engine_heartbeat_age_seconds", rank=rank) < PLAUSIBLE_SECONDS
    assert read("kv_blocks") == BLOCKS
    assert read("kv_cache_usage_perc") == read("num_requests_running") == read("num_requests_waiting") == 0
    stages = {sample.labels["stage"] for sample in read.samples["ryzanstein_model_load_seconds"]}
    assert stages == {"process", "group", "weights", "profile", "kv_cache", "warm_up"}
    assert 0 < read("model_load_seconds", stage="process") < PLAUSIBLE_SECONDS
    facts = {"version": VERSION, "device": "cpu", "dtype": "float32", "model_type": "llama", "node_rank": "0"}
    assert read("worker_info", **facts, tensor_parallel_size="2", nnodes="1") == 1


def test_whatever_is_documented_is_there_and_nothing_else(worker: Worker) -> None:
    shown = {family.name: family for family in read_text(page(worker).text)}
    documented = {family.name: family for family in catalogue(MODEL_NAME).collect()}
    documented.pop("ryzanstein_accelerator_healthy")  # no series where there is no accelerator
    assert shown.keys() == documented.keys()
    for name, family in shown.items():
        assert (family.documentation, family.type) == (documented[name].documentation, documented[name].type)
        assert family.samples, name


def test_who_is_refused_or_leaves_is_counted_by_the_reason(worker: Worker) -> None:
    before = Page.of(worker)
    with httpx.Client(base_url=worker.process.api, timeout=GIVE_UP_SECONDS) as client:
        for asked in (
            body([1] * (2 * ENDLESS + 1)),
            body([1], model="other"),
            body([1], stream=True, temperature=9),
            body([1], n=0),
        ):
            assert client.post(COMPLETIONS, json=asked).is_client_error
        with client.stream("POST", COMPLETIONS, json=body([1, 2], max_tokens=ENDLESS, stream=True)) as answer:
            next(answer.iter_lines())
    aborted = before("requests_aborted_total", cause="client")
    until(worker, lambda read: read("requests_aborted_total", cause="client") > aborted, "it has been left")
    after = until_idle(worker)

    def more(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    refused = {"too_long": 1, "unknown_model": 1, "invalid": 2, "overloaded": 0, "draining": 0}
    assert {reason: more("requests_refused_total", reason=reason) for reason in refused} == refused
    assert more("requests_aborted_total", cause="client") == more("request_success_total", finished_reason="abort") == 1
    assert more("prompt_tokens_total") == 2
    assert more("request_prompt_tokens_count") == more("request_success_total", finished_reason="error") == 0


def test_openmetrics_is_for_who_asks_and_has_the_ids_of_sampled_traces_alone(worker: Worker) -> None:
    until_idle(worker)
    other = "1" * 32
    for trace, flags in ((TRACE, "01"), (other, "00")):
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-{flags}"}
        asked = body(SECRET, max_tokens=50)
        url = f"{worker.process.api}{COMPLETIONS}"
        answer = httpx.post(url, json=asked, headers=headers, timeout=GIVE_UP_SECONDS)
        assert answer.status_code == 200
    assert page(worker).headers["content-type"].startswith("text/plain; version=0.0.4")
    assert TRACE not in page(worker).text
    open_page = page(worker, OPENMETRICS)
    assert open_page.headers["content-type"].startswith("application/openmetrics-text")
    found = set()
    for family in read_openmetrics(open_page.text):  # raises where the text is none
        found |= {(family.name, sample.exemplar.labels["trace_id"]) for sample in family.samples if sample.exemplar}
    seen = {name.removeprefix("ryzanstein_") for name, _ in found}
    assert {trace for _, trace in found} == {TRACE}
    assert {"time_to_first_token_seconds", "e2e_request_latency_seconds", "request_prompt_tokens"} <= seen
    for nonsense in ("application/openmetrics-text;version=x.y", "*/*", ",;;,="):
        assert "ryzanstein_worker_info" in page(worker, nonsense).text

    spans = {span.name: span for span in worker.traces.wait(4, GIVE_UP_SECONDS)}
    assert {span.trace_id for span in worker.traces.spans} == {TRACE}
    prefill, decode = spans["engine.prefill"], spans["engine.decode"]
    steps = [about for _, about in prefill.events + decode.events]
    numbers = [about["ryzanstein.engine.step"] for about in steps]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    prompt_tokens = prefill.attributes["gen_ai.usage.input_tokens"]
    assert sum(about["ryzanstein.engine.own_tokens"] for _, about in prefill.events) == prompt_tokens
    assert (len(decode.events), decode.attributes["ryzanstein.engine.steps"]) == (32, 49)
    assert {about["ryzanstein.engine.batch_size"] for about in steps} == {1}
    assert all(0 < about["ryzanstein.engine.step_ms"] < 1000 * PLAUSIBLE_SECONDS for about in steps)
    assert all(prefill.begin <= moment <= decode.end for moment in (prefill.begin, decode.begin))
    assert SECRET.encode() not in worker.traces.raw
    assert SECRET not in repr(worker.process.records)
