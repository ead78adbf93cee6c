"""Short builders for the engine's requests and limits, in tests."""

import itertools
from typing import Any

from ryzanstein_worker.engine.admission import Limits
from ryzanstein_worker.engine.request import AddRequest, SamplingParams

_NUMBERS = itertools.count()


def add_request(prompt: list[int], *, salt: bytes = b"", request_id: str | None = None, **sampling: Any) -> AddRequest:
    """A greedy request for 8 tokens, unless `sampling` says otherwise; a fresh id, unless one is given."""
    params = SamplingParams(**{"max_tokens": 8, "temperature": 0.0, **sampling})
    name = request_id or f"request-{next(_NUMBERS)}"
    return AddRequest(request_id=name, prompt_token_ids=prompt, sampling=params, cache_salt=salt)


def limits(**values: int) -> Limits:
    """Small limits: blocks of 4 tokens, 16 of them, contexts of 48 tokens."""
    defaults = {
        "vocab_size": 384,
        "max_model_len": 48,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 16,
        "num_kv_blocks": 16,
        "block_size": 4,
    }
    return Limits(**{**defaults, **values})
