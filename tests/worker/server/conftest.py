"""One worker for all tests of the session: loading torch is what takes the time. And a slow one beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tiny_model import write_tiny_model
from worker_process import WorkerProcess, serve_worker

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The start of a worker counts as time of the first test that asks for it: a minute on a machine that many use."""
    for item in items:
        asks = {"worker", "slow_worker"} & set(getattr(item, "fixturenames", ()))
        if item.path.parent == HERE and asks and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(180))


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def worker(model_dir: Path) -> Iterator[WorkerProcess]:
    with serve_worker(model_dir, "--max-num-seqs", "16", "--num-kv-blocks", "256") as worker:
        yield worker


@pytest.fixture(scope="session")
def slow_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """Takes 20 ms and more for a token, so that 500 are still under way when a test that was held up for seconds comes
    to look, or to leave."""
    model = write_tiny_model(tmp_path_factory.mktemp("slow_model"), num_layers=96)
    with serve_worker(model, "--max-num-seqs", "16", "--num-kv-blocks", "256") as worker:
        yield worker
