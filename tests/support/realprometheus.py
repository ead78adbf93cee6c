"""A real Prometheus on loopback, for tests that need its own reading of a configuration, its labels and its queries.

Knows how the two programs are called; knows nothing of Ryzanstein. They come from `$RYZANSTEIN_KUBE_BIN`, where
`python3 e2e/cluster tools prometheus promtool` puts them, else from PATH.
"""

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ports import free_port

START_SECONDS = 120.0
CALL_SECONDS = 60.0
CHECK_SECONDS = 120.0


def program(name: str) -> str:
    """The path of prometheus or promtool."""
    folder = os.environ.get("RYZANSTEIN_KUBE_BIN", str(Path.home() / ".cache/ryzanstein/bin"))
    found = shutil.which(name, path=folder) or shutil.which(name)
    assert found, f"{name} is not there: python3 e2e/cluster tools prometheus promtool"
    return found


def promtool(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What promtool says, whether it is content or not."""
    command = [program("promtool"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=CHECK_SECONDS, cwd=cwd, check=False)


class Prometheus:
    """One that runs, at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query that gives a vector."""
        answer = self._get("/api/v1/query", {"query": expression})
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def targets(self) -> list[dict[str, Any]]:
        """The targets that it scrapes."""
        found: list[dict[str, Any]] = self._get("/api/v1/targets", {"state": "active"})["data"]["activeTargets"]
        return found

    def ready(self) -> bool:
        """Whether it answers queries."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=CALL_SECONDS):
                return True
        except OSError:
            return False

    def _get(self, path: str, parameters: Mapping[str, str]) -> Any:
        with urllib.request.urlopen(
            f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=CALL_SECONDS
        ) as answer:
            return json.load(answer)


@contextmanager
def running(config: Path, folder: Path) -> Iterator[Prometheus]:
    """Prometheus with this configuration file, its data in `folder`; ended at the end."""
    address = f"127.0.0.1:{free_port()}"
    log = folder / "prometheus.log"
    command = [program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={address}", "--log.level=warn"], stdout=output, stderr=output, cwd=folder
        )
    try:
        prometheus = Prometheus(f"http://{address}")
        deadline = time.monotonic() + START_SECONDS
        while not prometheus.ready():
            assert process.poll() is None, f"Prometheus ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"Prometheus is not ready: {log.read_text()}"
            time.sleep(0.05)
        yield prometheus
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60)
