"""A program that starts an engine, prints its ranks' process ids, and waits to be killed: `engine_parent.py DIR N`."""

import asyncio
import os
import sys

from processes import children
from ryzanstein_worker.config import EngineConfig
from ryzanstein_worker.engine.engine import Engine


async def main(model_dir: str, ranks: int) -> None:
    config = EngineConfig(model_dir=model_dir, tensor_parallel_size=ranks, device="cpu", num_kv_blocks=1024)
    engine = await Engine.start(config)
    sys.stdout.write(" ".join(str(pid) for pid in children(os.getpid())) + "\n")
    sys.stdout.flush()
    await engine.wait_lost()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
