"""What `auto` means on this machine: device, dtype, tokens a step, blocks of KV cache, context length.

Reads the model's shape and the device's memory. Every rank comes to the same answers, but for the number of blocks,
of which the parent takes the least.
"""

import torch

from ryzanstein_worker.config import EngineConfig
from ryzanstein_worker.engine.admission import Limits
from ryzanstein_worker.errors import ConfigError
from ryzanstein_worker.machine import available_memory
from ryzanstein_worker.model.config import ModelConfig

_CPU_KV_BYTES = 512 * 2**20
_CPU_KV_SHARE = 0.25  # of the memory that is available: the rest is for weights, activations and neighbours
_TOKENS_A_STEP = {"cpu": 512, "cuda": 8192}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(config: EngineConfig, rank: int) -> torch.device:
    """Raises ConfigError where CUDA is asked for and missing, or has fewer devices than this pod has ranks."""
    has_cuda = config.device != "cpu" and torch.cuda.is_available()
    if config.device == "cuda" and not has_cuda:
        raise ConfigError("--device cuda: this machine has no usable CUDA device.")
    if not has_cuda:
        return torch.device("cpu")
    if torch.cuda.device_count() < config.ranks_per_node:
        over = f" over --nnodes {config.nnodes}" if config.nnodes > 1 else ""
        raise ConfigError(
            f"--tensor-parallel-size {config.tensor_parallel_size}{over} needs {config.ranks_per_node} GPUs here; "
            f"{torch.cuda.device_count()} can be seen."
        )
    return torch.device("cuda", rank % config.ranks_per_node)


def pick_dtype(config: EngineConfig, model: ModelConfig, device: torch.device) -> torch.dtype:
    """The asked one; else the checkpoint's on CUDA, and on CPU float32, which is faster there on most machines."""
    if config.dtype != "auto":
        return _DTYPES[config.dtype]
    return torch.float32 if device.type == "cpu" else _DTYPES[model.dtype]


def pick_max_model_len(config: EngineConfig, model: ModelConfig) -> int:
    """Before the KV cache is known. Raises ConfigError for more than the model's positions allow."""
    asked = config.max_model_len
    if asked is not None and asked > model.max_model_len:
        raise ConfigError(f"--max-model-len {asked} exceeds the {model.max_model_len} tokens that the model allows.")
    return asked or model.max_model_len


def pick_batched_tokens(config: EngineConfig, device: torch.device) -> int:
    return config.max_num_batched_tokens or max(config.max_num_seqs, _TOKENS_A_STEP[device.type])


def cpu_kv_bytes(config: EngineConfig) -> int:
    """Bytes for this rank's KV cache on CPU, unless blocks are given by number."""
    share = int(available_memory() * _CPU_KV_SHARE)
    return config.kv_cache_memory_bytes or min(_CPU_KV_BYTES, share) // config.ranks_per_node


def cuda_kv_bytes(config: EngineConfig, peak_bytes: int, device: torch.device) -> int:
    """Bytes for this rank's KV cache on CUDA: the share we may use, less all that others and a full step take.

    `peak_bytes` is torch's peak while the largest step ran without the cache.
    """
    if config.kv_cache_memory_bytes is not None:
        return config.kv_cache_memory_bytes
    free, total = torch.cuda.mem_get_info(device)
    outside_torch = total - free - torch.cuda.memory_reserved(device)
    return max(0, int(total * config.gpu_memory_utilization) - outside_torch - peak_bytes)


def settle(config: EngineConfig, *, vocab_size: int, max_model_len: int, tokens_a_step: int, num_blocks: int) -> Limits:
    """The scheduler's limits. Raises ConfigError where the cache cannot hold one sequence of the asked length."""
    capacity = num_blocks * config.block_size
    if capacity < (config.max_model_len or min(max_model_len, 2 * config.block_size)):
        raise ConfigError(
            f"The KV cache has room for {capacity} tokens, fewer than one sequence of --max-model-len "
            f"{max_model_len}: give it more memory (--kv-cache-memory-bytes) or lower --max-model-len."
        )
    return Limits(
        vocab_size=vocab_size,
        max_model_len=min(max_model_len, capacity),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=tokens_a_step,
        num_kv_blocks=num_blocks,
        block_size=config.block_size,
    )
