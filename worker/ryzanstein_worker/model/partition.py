"""How a model's heads and channels are dealt to the ranks. Integers only.

Query heads and channels divide evenly. Kv heads divide, or, where there are fewer of them than ranks, each is held by
size / kv heads ranks whose query heads read it.
"""

from ryzanstein_worker.errors import ModelError
from ryzanstein_worker.model.config import ModelConfig
from ryzanstein_worker.parallel.group import Group


def check_partition(config: ModelConfig, size: int) -> None:
    """Raises ModelError, naming the sizes that would work, if the model cannot be dealt to `size` ranks."""
    if not _divides(config, size):
        fits = [str(n) for n in range(1, config.num_attention_heads + 1) if _divides(config, n)]
        raise ModelError(
            f"The model cannot be split over {size} tensor-parallel ranks: it has {config.num_attention_heads} "
            f"attention heads, {config.num_key_value_heads} key-value heads and {config.intermediate_size} "
            f"intermediate channels, which allow {', '.join(fits)}."
        )


def local_heads(config: ModelConfig, group: Group) -> int:
    """Query heads of one rank."""
    return config.num_attention_heads // group.size


def local_kv_heads(config: ModelConfig, group: Group) -> int:
    """Kv heads of one rank, at least 1."""
    return max(1, config.num_key_value_heads // group.size)


def first_kv_head(config: ModelConfig, group: Group) -> int:
    """The first of this rank's kv heads."""
    return group.rank * config.num_key_value_heads // group.size


def padded_vocab(vocab_size: int, size: int) -> int:
    """The vocabulary rounded up so that every rank holds as many rows; the rows beyond are zero."""
    return -(-vocab_size // size) * size


def _divides(config: ModelConfig, size: int) -> bool:
    kv = config.num_key_value_heads
    return (
        config.num_attention_heads % size == 0
        and (kv % size == 0 or (kv < size and size % kv == 0))
        and config.intermediate_size % size == 0
    )
