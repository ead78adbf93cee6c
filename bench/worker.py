"""The worker against itself, in one run: two ranks against one, and a batch against the same requests one by one.

    python -m bench.worker [--pairs 5]

Each figure is a ratio of two measurements taken one after the other, so that what slows the machine slows both; the
median over the pairs is printed with the least and the greatest. Prefix caching is off: every prompt is computed.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.tiny_model import write_tiny_model

from ryzanstein_worker.config import DEMO_MODEL_DIR, EngineConfig
from ryzanstein_worker.engine.engine import Engine
from ryzanstein_worker.engine.request import AddRequest, SamplingParams
from ryzanstein_worker.machine import usable_cpus

PREFILL_TOKENS = 448
DECODE_TOKENS = 32
BATCH = 16


@dataclass(frozen=True)
class Bench:
    """An engine of one rank and one of two, each rank with one thread, over the same model."""

    one: Engine
    two: Engine


async def generate(engine: Engine, prompt_tokens: int, max_tokens: int, salt: int) -> tuple[float, float]:
    """Seconds to the first token, and from there to the last."""
    vocab = engine.info.vocab_size
    prompt = [(7 * n + 13 * salt) % vocab for n in range(prompt_tokens)]
    request = AddRequest(
        request_id=f"{salt}-{time.monotonic_ns()}",
        prompt_token_ids=prompt,
        sampling=SamplingParams(max_tokens=max_tokens, temperature=0.0),
    )
    start, first = time.monotonic(), 0.0
    async for output in engine.generate(request):
        assert output.error is None, output.error
        first = first or time.monotonic()
    return first - start, time.monotonic() - first


async def decode_speed(engine: Engine, salt: int) -> float:
    """Tokens a second of one request, after its first token."""
    return (DECODE_TOKENS - 1) / (await generate(engine, 16, DECODE_TOKENS, salt))[1]


async def prefill_speed(engine: Engine, salt: int) -> float:
    """Prompt tokens a second of one request."""
    return PREFILL_TOKENS / (await generate(engine, PREFILL_TOKENS, 1, salt))[0]


async def batch_speed(engine: Engine, salt: int) -> float:
    """Output tokens a second of 16 requests at once."""
    start = time.monotonic()
    await asyncio.gather(*(generate(engine, 16, DECODE_TOKENS, salt + n) for n in range(BATCH)))
    return BATCH * DECODE_TOKENS / (time.monotonic() - start)


async def serial_speed(engine: Engine, salt: int) -> float:
    """Output tokens a second of the same 16 requests, one after another."""
    start = time.monotonic()
    for n in range(BATCH):
        await generate(engine, 16, DECODE_TOKENS, salt + n)
    return BATCH * DECODE_TOKENS / (time.monotonic() - start)


async def compare(
    name: str, pairs: int, new: Callable[[int], Awaitable[float]], old: Callable[[int], Awaitable[float]]
) -> None:
    """Print the ratio new/old of `pairs` paired measurements; which goes first alternates."""
    await new(0)
    await old(0)  # caches and allocators are warm from here on
    news, olds = [], []
    for pair in range(1, pairs + 1):
        for measure, results in ((new, news), (old, olds)) if pair % 2 else ((old, olds), (new, news)):
            results.append(await measure(100 * pair))
    ratios = sorted(a / b for a, b in zip(news, olds, strict=True))
    print(
        f"  {name:<44} {statistics.median(ratios):6.2f} x   ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        f"   {statistics.median(news):9.1f} against {statistics.median(olds):.1f} tokens/s",
        flush=True,
    )


@contextlib.asynccontextmanager
async def engines(model_dir: Path) -> AsyncIterator[Bench]:
    """Both engines, loaded; the idle one only beats once a second."""

    def config(ranks: int) -> EngineConfig:
        return EngineConfig(
            model_dir=str(model_dir),
            tensor_parallel_size=ranks,
            device="cpu",
            max_model_len=512,
            max_num_seqs=BATCH,
            max_num_batched_tokens=512,
            num_kv_blocks=BATCH * 32,
            enable_prefix_caching=False,
            threads_per_rank=1,
        )

    async with contextlib.AsyncExitStack() as stack:
        one, two = await asyncio.gather(Engine.start(config(1)), Engine.start(config(2)))
        stack.push_async_callback(one.stop)
        stack.push_async_callback(two.stop)
        yield Bench(one, two)


async def measure(title: str, model_dir: Path, pairs: int) -> None:
    async with engines(model_dir) as bench:
        info = bench.one.info
        print(f"{title}: {info.num_parameters / 1e6:.1f} million parameters, {info.dtype}, {info.device}", flush=True)
        one, two = bench.one, bench.two
        await compare("2 ranks / 1 rank, decode, 1 request", pairs, _on(two, decode_speed), _on(one, decode_speed))
        await compare("2 ranks / 1 rank, decode, 16 requests", pairs, _on(two, batch_speed), _on(one, batch_speed))
        await compare("2 ranks / 1 rank, prefill", pairs, _on(two, prefill_speed), _on(one, prefill_speed))
        await compare("16 requests at once / one by one, 1 rank", pairs, _on(one, batch_speed), _on(one, serial_speed))


def _on(engine: Engine, speed: Callable[[Engine, int], Awaitable[float]]) -> Callable[[int], Awaitable[float]]:
    return lambda salt: speed(engine, salt)


async def main(pairs: int) -> None:
    load = os.getloadavg()[0]
    print(f"{usable_cpus()} CPUs, load {load:.1f}; one thread a rank; median of {pairs} pairs (least to greatest)")
    with tempfile.TemporaryDirectory() as directory:
        # Decode reads every weight once a token: some 280 MB lie well beyond the CPU's caches.
        model_dir = write_tiny_model(
            Path(directory),
            num_layers=8,
            hidden_size=768,
            num_heads=12,
            num_kv_heads=12,
            intermediate_size=2048,
            vocab_size=8192,
        )
        await measure("random llama", model_dir, pairs)
    if (DEMO_MODEL_DIR / "config.json").exists():
        await measure("demo model", DEMO_MODEL_DIR, pairs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    if usable_cpus() < 2:
        sys.exit("two ranks against one needs two CPUs")
    asyncio.run(main(arguments.pairs))
