"""A worker tells the gateway what an answer costs, so that nobody has to read the answer for it."""

import httpx
import pytest

from ryzanstein_worker.contract import HEADER_USAGE
from worker_process import MODEL_NAME, WorkerProcess

ASK = {"model": MODEL_NAME, "prompt": "one two three", "max_tokens": 5, "ignore_eos": True, "n": 2}


@pytest.mark.parametrize("stream", [False, True])
def test_the_header_says_what_the_usage_says(worker: WorkerProcess, stream: bool) -> None:
    body = ASK | {"stream": stream}
    reply = httpx.post(f"{worker.api}/v1/completions", json=body, timeout=30)
    usage = httpx.post(f"{worker.api}/v1/completions", json=ASK, timeout=30).json()["usage"]
    assert usage["completion_tokens"] == 10
    whole = f"{usage['prompt_tokens']} {usage['completion_tokens']}"
    assert reply.headers[HEADER_USAGE] == (str(usage["prompt_tokens"]) if stream else whole)
