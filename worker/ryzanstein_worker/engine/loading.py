"""How a rank comes up: device, process group, weights, memory for the KV cache, warm-up.

Raises ConfigError (or ModelError, which is one) for what only the user can mend.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ryzanstein_worker.engine.admission import Limits
from ryzanstein_worker.engine.frames import RankLaunch
from ryzanstein_worker.engine.ledger import Account, Stage
from ryzanstein_worker.engine.limits import (
    cpu_kv_bytes,
    cuda_kv_bytes,
    pick_batched_tokens,
    pick_device,
    pick_dtype,
    pick_max_model_len,
    settle,
)
from ryzanstein_worker.engine.runner import Runner
from ryzanstein_worker.engine.status import ModelInfo
from ryzanstein_worker.model.config import ModelConfig, load_config
from ryzanstein_worker.model.decoder import Decoder
from ryzanstein_worker.model.kv_cache import KVCache, bytes_per_block
from ryzanstein_worker.model.loader import load_model
from ryzanstein_worker.parallel.group import Across, Group
from ryzanstein_worker.parallel.keyvalue import Answer, Ask
from ryzanstein_worker.parallel.messages import Channel, FrameCodec
from ryzanstein_worker.parallel.store import ChannelStore

_CPU_WARM_UP_TOKENS = 32  # enough to touch every weight and kernel; CPU memory is not profiled


@dataclass
class LoadedRank:
    """A model with its weights; `allocate` gives it its cache, once, and then the rest may be used."""

    launch: RankLaunch
    model: ModelConfig
    decoder: Decoder
    group: Group
    max_model_len: int
    tokens_a_step: int
    on_progress: Callable[[], None]
    account: Account
    num_kv_blocks: int = 0
    limits: Limits = field(init=False)
    kv: KVCache = field(init=False)

    def allocate(self, num_kv_blocks: int) -> None:
        """Take the cache's memory and warm up; every rank with the same number. Raises ConfigError."""
        self.limits = settle(
            self.launch.config,
            vocab_size=self.model.vocab_size,
            max_model_len=self.max_model_len,
            tokens_a_step=self.tokens_a_step,
            num_blocks=num_kv_blocks,
        )
        with _timed(self.account, "kv_cache"):
            self.kv = self._cache(num_kv_blocks)
        if self.decoder.device.type != "cpu":  # measuring the memory has warmed it up
            return
        with _timed(self.account, "warm_up"):
            self.runner(self.on_progress).warm_up([min(_CPU_WARM_UP_TOKENS, self.limits.max_model_len - 1)])

    def runner(self, on_layer: Callable[[], None]) -> Runner:
        return Runner(self.decoder, self.kv, on_layer=on_layer)

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(
            model_type=self.model.model_type,
            dtype=str(self.decoder.dtype).removeprefix("torch."),
            device=self.decoder.device.type,
            vocab_size=self.model.vocab_size,
            num_parameters=self.decoder.num_parameters,
            max_model_len=self.limits.max_model_len,
            block_size=self.limits.block_size,
            num_kv_blocks=self.limits.num_kv_blocks,
        )

    def count_blocks(self) -> int:
        """Blocks that this rank has memory for."""
        config = self.launch.config
        if config.num_kv_blocks is not None:
            return config.num_kv_blocks
        device = self.decoder.device
        budget = cpu_kv_bytes(config) if device.type == "cpu" else cuda_kv_bytes(config, self._peak_bytes(), device)
        return budget // bytes_per_block(self.model, self.group, self.decoder.dtype, config.block_size)

    def _peak_bytes(self) -> int:
        """CUDA memory at the peak of the largest step, without the cache's own share."""
        size = self.launch.config.block_size
        lengths = _largest_step(self.tokens_a_step, self.max_model_len, self.launch.config.max_num_seqs)
        cache = self._cache(-(-(max(lengths) + 1) // size))
        Runner(self.decoder, cache, on_layer=self.on_progress).warm_up(lengths)
        own = 2 * cache.k_LPSKH.nbytes
        peak = torch.cuda.max_memory_allocated(self.decoder.device) - own
        del cache
        torch.cuda.empty_cache()
        return peak

    def _cache(self, num_blocks: int) -> KVCache:
        return KVCache.allocate(
            self.model,
            self.group,
            num_blocks=num_blocks,
            block_size=self.launch.config.block_size,
            dtype=self.decoder.dtype,
            device=self.decoder.device,
        )


def load_rank(launch: RankLaunch, account: Account, *, on_progress: Callable[[], None]) -> LoadedRank:
    """Read the model's shape, meet the other ranks, read this rank's weights, measure what is left for the cache.

    `account` learns how long each stage took, and of the group's collectives.
    """
    config = launch.config
    model = load_config(config.model_path)
    device = pick_device(config, launch.rank)
    max_model_len = pick_max_model_len(config, model)
    # Far beyond the hang timeout: the supervisor is who judges, by heartbeats, and names the culprit.
    timeout_seconds = config.startup_timeout_seconds + 6 * config.hang_timeout_seconds
    with _timed(account, "group"):
        group = Group.join(
            launch.rank,
            config.tensor_parallel_size,
            store_path=Path(launch.store_path),
            device=device,
            timeout_seconds=timeout_seconds,
            across=_across(launch, timeout_seconds),
            meter=account,
        )
    on_progress()
    with _timed(account, "weights"):
        decoder = load_model(
            config.model_path,
            model,
            dtype=pick_dtype(config, model, device),
            device=device,
            group=group,
            max_model_len=max_model_len,
            on_progress=on_progress,
        )
    tokens_a_step = pick_batched_tokens(config, device)
    loaded = LoadedRank(launch, model, decoder, group, max_model_len, tokens_a_step, on_progress, account)
    with _timed(account, "profile"):
        loaded.num_kv_blocks = loaded.count_blocks()
    return loaded


@contextmanager
def _timed(account: Account, stage: Stage) -> Iterator[None]:
    begin = time.monotonic()
    yield
    account.stage(stage, time.monotonic() - begin)


def _across(launch: RankLaunch, timeout_seconds: float) -> Across | None:
    """The way to the ranks of other pods, where there are any."""
    if launch.store_fd is None:
        return None
    codec: FrameCodec[Ask, Answer] = FrameCodec(Answer)
    channel = Channel(socket.socket(fileno=launch.store_fd), codec, on_wait=lambda: None, tick=1.0)
    return Across(ChannelStore(channel, timeout_seconds), launch.interface)


def _largest_step(tokens: int, max_model_len: int, max_num_seqs: int) -> list[int]:
    """Lengths of new sequences that fill a step, as few and long as the context allows."""
    longest = min(tokens, max_model_len - 1)
    full, rest = divmod(tokens, longest)
    return ([longest] * full + ([rest] if rest else []))[:max_num_seqs]
