"""A real Prometheus on loopback, with jobs of fixed targets; the program is Debian's (python3 e2e/cluster tools
prometheus). Knows how it is started and asked; knows no metric."""

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from apiserver import binaries
from ports import free_port
from ryzanstein_worker.contract import JOB_WORKER

START_SECONDS = 120.0
CALL_SECONDS = 60.0


@dataclass(frozen=True)
class Target:
    """One pod as Prometheus is to see it: where it answers (host:port), and the labels that a cluster's would have."""

    job: str
    address: str
    namespace: str
    pod: str
    service: str = ""

    def config(self, seconds: float) -> dict[str, Any]:
        """As a scrape config of its own, as the chart's keeps the metrics' own labels."""
        labels = {"namespace": self.namespace, "pod": self.pod}
        labels |= {"inference_service": self.service} if self.service else {}
        static = {"targets": [self.address], "labels": {**labels, "job": self.job}}
        every = f"{round(seconds * 1000)}ms"
        return {
            "job_name": f"{self.job}/{self.pod}",
            "scrape_interval": every,
            "scrape_timeout": every,
            "honor_labels": self.job != JOB_WORKER,
            "static_configs": [static],
        }


class Prometheus:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    def api(self, path: str, **parameters: str) -> Any:
        """`data` of an answer of the API; an AssertionError with Prometheus' own words where it refuses."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=CALL_SECONDS) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from None

    def up(self) -> dict[str, bool]:
        """Each target's pod, and whether its last scrape went well."""
        return {target["labels"]["pod"]: target["health"] == "up" for target in self.api("targets")["activeTargets"]}

    def until_up(self, seconds: float = START_SECONDS) -> None:
        """Wait until all targets are."""
        deadline = time.monotonic() + seconds
        while not all(self.up().values()) or not self.up():
            assert time.monotonic() < deadline, self.api("targets")["activeTargets"]
            time.sleep(0.2)


@contextlib.contextmanager
def prometheus(
    directory: Path, targets: Iterable[Target], *, seconds: float = 1.0, port: int = 0, rules: Path | None = None
) -> Iterator[Prometheus]:
    """Scrapes the targets every so many seconds, from the moment it is ready; on `port`, or any that is free. Evaluates
    the rules of a folder's files as often."""
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "prometheus.yml"
    written = {
        "global": {"evaluation_interval": f"{round(seconds * 1000)}ms"},
        "rule_files": [str(rules / "*.yaml")] if rules else [],
        "scrape_configs": [target.config(seconds) for target in targets],
    }
    config.write_text(yaml.safe_dump(written))
    port = port or free_port()
    command = [str(binaries() / "prometheus"), f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage", "--log.level=warn"]
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
    try:
        _until_ready(process, f"http://127.0.0.1:{port}/-/ready", directory / "log")
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60)


def _until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10):
            return
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
