"""What a scraper learns of a worker that has loaded: joins the engine's numbers and facts with the metrics."""

from functools import partial
from importlib.metadata import version
from typing import Protocol

from ryzanstein_worker.config import ServeConfig
from ryzanstein_worker.contract import VERSION
from ryzanstein_worker.engine.engine import Engine
from ryzanstein_worker.engine.status import EngineHealth, ModelInfo
from ryzanstein_worker.telemetry.metrics import ServerMetrics, WorkerInfo


class _Alive(Protocol):
    def health(self) -> EngineHealth: ...


def watch(metrics: ServerMetrics, config: ServeConfig, engine: Engine) -> None:
    """Show all that the pod with rank 0 knows."""
    metrics.watch(engine.stats, engine.info.num_kv_blocks)
    metrics.watch_steps(engine.numbers)
    metrics.watch_ranks(engine.numbers, partial(heartbeats, engine))
    metrics.show(worker_info(config, engine.info))


def heartbeats(engine: _Alive) -> list[tuple[int, float]]:
    """Each known rank, and the seconds since its latest sign of life."""
    return [(rank.rank, rank.age_seconds) for rank in engine.health().ranks]


def worker_info(config: ServeConfig, info: ModelInfo) -> WorkerInfo:
    """The labels of a worker's one series that says what it is."""
    return WorkerInfo(
        version=VERSION,
        torch_version=version("torch"),
        model_type=info.model_type,
        device=info.device,
        dtype=info.dtype,
        tensor_parallel_size=str(config.engine.tensor_parallel_size),
        nnodes=str(config.engine.nnodes),
        node_rank=str(config.group.node_rank if config.group is not None else 0),
    )
