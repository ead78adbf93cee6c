"""From a model directory to a decoder that is ready to run. The engine's one door into this package."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from ryzanstein_worker.model.config import ModelConfig
from ryzanstein_worker.model.decoder import Decoder
from ryzanstein_worker.model.partition import check_partition
from ryzanstein_worker.model.weights import Checkpoint, load_weights
from ryzanstein_worker.parallel.group import Group


def load_model(
    model_dir: Path,
    config: ModelConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    group: Group,
    max_model_len: int | None = None,
    on_progress: Callable[[], None] = lambda: None,
) -> Decoder:
    """Build the decoder and read this rank's share of the weights into it.

    `max_model_len` (default: config.max_model_len) is the longest sequence the engine will admit; the rope types
    dynamic and longrope choose their frequencies by it. `on_progress` is called from this thread every few MiB.
    Raises ModelError with one sentence that names the file and the tensor.
    """
    check_partition(config, group.size)
    checkpoint = Checkpoint.open(model_dir)
    decoder = Decoder(config, group, dtype=dtype, device=device, max_model_len=max_model_len or config.max_model_len)
    load_weights(checkpoint, decoder.shards(), on_progress=on_progress)
    return decoder


def fingerprint(model_dir: Path) -> str:
    """SHA-256, in hex, over the weights' headers and sizes: cheap, and equal for equal layouts. Raises ModelError.

    It tells models and revisions of other shape apart; that two files hold the same numbers it does not prove.
    """
    digest = hashlib.sha256()
    for file in Checkpoint.open(model_dir).files:
        digest.update(file.header)
        digest.update(file.size.to_bytes(8, "little"))
    return digest.hexdigest()
