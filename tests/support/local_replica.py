"""One rank in this process, without channels: the real scheduler, runner and decoder over a tiny model."""

from collections.abc import Iterable
from pathlib import Path

import torch

from engine_requests import limits
from ryzanstein_worker.engine.replica import Replica
from ryzanstein_worker.engine.request import AddRequest
from ryzanstein_worker.engine.runner import Model, Runner
from ryzanstein_worker.engine.scheduler import Scheduler
from ryzanstein_worker.engine.sequence import Progress
from ryzanstein_worker.model.config import load_config
from ryzanstein_worker.model.kv_cache import KVCache
from ryzanstein_worker.model.loader import load_model
from ryzanstein_worker.parallel.group import SINGLE

CPU = torch.device("cpu")


def load_tiny(model_dir: Path) -> Model:
    """The real decoder, in float32 on CPU."""
    return load_model(model_dir, load_config(model_dir), dtype=torch.float32, device=CPU, group=SINGLE)


def local_replica(
    model_dir: Path, model: Model, *, prefix_caching: bool = True, alone: bool = True, **values: int
) -> Replica:
    """`values` are those of `limits`."""
    bounds = limits(**values)
    kv = KVCache.allocate(
        load_config(model_dir),
        SINGLE,
        num_blocks=bounds.num_kv_blocks,
        block_size=bounds.block_size,
        dtype=torch.float32,
        device=CPU,
    )
    scheduler = Scheduler(bounds, enable_prefix_caching=prefix_caching)
    return Replica(scheduler, Runner(model, kv, on_layer=lambda: None), alone=alone)


def finish(replica: Replica, requests: Iterable[AddRequest]) -> dict[str, Progress]:
    """Run these until none is left; the last progress of each, whose sequence has all tokens."""
    ended = {item.sequence.request.request_id: item for item in replica.change([], requests)}
    while (step := replica.scheduler.schedule()) is not None:
        outcome, _ = replica.run(step)
        for item in replica.book(step, outcome):
            if item.finish_reason is not None:
                ended[item.sequence.request.request_id] = item
        replica.scheduler.check_integrity()
    return ended


def outputs(replica: Replica, requests: list[AddRequest]) -> list[list[int]]:
    """The tokens that each request got, in the requests' order."""
    ended = finish(replica, requests)
    sequences = [ended[request.request_id].sequence for request in requests]
    return [sequence.token_ids[sequence.num_prompt :] for sequence in sequences]
