"""What measuring costs an engine: the time of all that a step's measurement does, against the step itself.

    python -m bench.worker_telemetry

Both sides are timed in the same run: the instruments alone, at their quickest of many rounds, and the steps of a real
engine of two ranks as its own accounts tell them, at their quickest too. The share is the worst there is: the smallest
model, the smallest batch, and steps that nothing delays.
"""

import asyncio
import os
import sys
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.engine_requests import add_request

from ryzanstein_worker.config import DEMO_MODEL_DIR, EngineConfig
from ryzanstein_worker.engine.engine import Engine
from ryzanstein_worker.engine.ledger import Ledger
from ryzanstein_worker.engine.sequence import Sequence, Slice, Step
from ryzanstein_worker.engine.steps import StepLog

CALLS, ROUNDS, TOKENS, WINDOW = 20_000, 15, 400, 20


def quickest(call: Callable[[], object]) -> float:
    """Nanoseconds of one call."""
    return min(timeit.repeat(call, number=CALLS, repeat=ROUNDS)) / CALLS * 1e9


def instruments() -> tuple[float, float]:
    """Nanoseconds that a step's own measurement takes, and one of a collective's; each with its two looks at the
    clock."""
    account, log = Ledger(Ledger.create(1), 1).account(0), StepLog()
    step = Step((Slice(Sequence(add_request([1]), 0, [1, 2], []), 1, 1),))
    clock = 2 * quickest(time.monotonic_ns)
    of_step = quickest(lambda: account.step("decode", 700_000, 1)) + quickest(lambda: log.note(step, 1, 1, 1.0, 0.1))
    return clock + of_step, clock + quickest(lambda: account.collective("all_reduce", 9_000))


@dataclass(frozen=True)
class Steps:
    """Of one engine, so far."""

    count: int
    seconds: float
    collectives: int

    @classmethod
    def of(cls, engine: Engine) -> "Steps":
        numbers = engine.numbers()[0]
        seconds = sum(steps.total for steps in numbers.steps.values())
        return cls(numbers.step_tokens.count, seconds, sum(spent.count for spent in numbers.collectives.values()))


async def quickest_step(engine: Engine) -> float:
    """Seconds of a decode step of one request: the mean of the best WINDOW of them."""
    best, seen, before = float("inf"), 0, Steps.of(engine)
    async for _ in engine.generate(add_request([1, 2, 3], max_tokens=TOKENS)):
        seen += 1
        if seen % WINDOW == 0:
            now = Steps.of(engine)
            best, before = min(best, (now.seconds - before.seconds) / max(1, now.count - before.count)), now
    return best


async def main() -> None:
    of_step, of_collective = instruments()
    config = EngineConfig(model_dir=str(DEMO_MODEL_DIR), tensor_parallel_size=2, device="cpu", max_model_len=512)
    engine = await Engine.start(config)
    try:
        before = Steps.of(engine)
        step = await quickest_step(engine)
        after = Steps.of(engine)
    finally:
        await engine.stop()
    a_step = (after.collectives - before.collectives) / (after.count - before.count)
    cost = of_step + a_step * of_collective
    sys.stdout.write(
        f"load {os.getloadavg()[0]:.1f}; a step's measurement {of_step:.0f} ns, a collective's {of_collective:.0f} ns, "
        f"{a_step:.1f} a step: {cost / 1000:.1f} µs\n"
        f"a decode step of one request on two ranks {step * 1e6:.0f} µs: {cost / (step * 1e9):.2%} of it is measuring\n"
    )


if __name__ == "__main__":
    asyncio.run(main())
