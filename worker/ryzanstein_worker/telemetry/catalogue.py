"""Every metric of a worker without a worker: for who documents them, or checks that what is asked for exists."""

from prometheus_client import CollectorRegistry

from ryzanstein_worker import contract
from ryzanstein_worker.engine.ledger import (
    PHASES,
    STAGES,
    STEP_SECONDS,
    STEP_TOKENS,
    CollectiveTime,
    Distribution,
    RankNumbers,
)
from ryzanstein_worker.engine.status import EngineStats
from ryzanstein_worker.parallel.meter import COLLECTIVES
from ryzanstein_worker.telemetry.metrics import ServerMetrics, WorkerInfo


def catalogue(model_name: str = "model") -> CollectorRegistry:
    """A registry with all families, each with its help and every label that it can have. Numbers mean nothing."""
    metrics = ServerMetrics(model_name)
    rank = RankNumbers(
        rank=0,
        steps={phase: Distribution((0,) * (len(STEP_SECONDS) + 1), 0.0) for phase in PHASES},
        step_tokens=Distribution((0,) * (len(STEP_TOKENS) + 1), 0.0),
        collectives={op: CollectiveTime(1, 0.0) for op in COLLECTIVES},
        load=dict.fromkeys(STAGES, 0.0),
    )
    metrics.watch(EngineStats)
    metrics.watch_steps(lambda: (rank,))
    metrics.watch_ranks(lambda: (rank,), lambda: ((0, 0.0),))
    metrics.watch_accelerator(lambda: True)
    metrics.show(WorkerInfo(contract.VERSION, "", "", "cpu", "float32", "1", "1", "0"))
    return metrics.registry
