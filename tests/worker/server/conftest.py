"""One worker for all tests of the session: loading torch is what takes the time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tiny_model import write_tiny_model
from worker_process import WorkerProcess, serve_worker


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def worker(model_dir: Path) -> Iterator[WorkerProcess]:
    with serve_worker(model_dir, "--max-num-seqs", "16", "--num-kv-blocks", "256") as worker:
        yield worker
