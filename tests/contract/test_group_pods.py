"""What the operator tells the pods of a group makes real workers one replica: they meet, answer, and end together."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakeapi import wait_until
from operator_builders import SETTINGS, parsed, service
from ports import free_port
from ryzanstein_operator.desired.groups import stateful_set

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(400)]

PORTS = ("--port", "--health-port", "--grpc-port")
NODES = 2


class Pod:
    """One container of the StatefulSet as a process: its own words, but for what a cluster gives (names, ports)."""

    def __init__(self, container: dict[str, Any], index: int, meet: int, directory: Path) -> None:
        given = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        given |= {"RYZANSTEIN_NODE_RANK": str(index), "RYZANSTEIN_GROUP_KEY_FILE": str(directory / "key")}
        given |= {"HOME": str(directory), "RYZANSTEIN_TERMINATION_LOG": str(directory / f"end-{index}")}
        words = [word.replace("$(RYZANSTEIN_NODE_RANK)", str(index)) for word in container["args"]]
        self.ports = {flag: free_port() for flag in PORTS}
        here = {flag: str(port) for flag, port in self.ports.items()}
        for flag, value in {**here, "--master-addr": "127.0.0.1", "--master-port": str(meet)}.items():
            words[words.index(flag) + 1] = value
        self.log = directory / f"log-{index}"
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "ryzanstein_worker", *words]
            self.process = subprocess.Popen(command, env={**os.environ, **given}, stdout=log, stderr=log)

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['--health-port']}/health/ready", timeout=2):
                return True
        except OSError:
            return False


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[list[Pod]]:
    engine = {"maxModelLen": 256, "maxNumSeqs": 4}
    group = stateful_set(parsed(service(parallelism={"tensor": 2, "nodes": NODES}, engine=engine)), SETTINGS, 0)
    (container,) = group["spec"]["template"]["spec"]["containers"]
    (tmp_path / "key").write_text("ab" * 32)
    meet = free_port()
    started = [Pod(container, index, meet, tmp_path) for index in range(NODES)]
    yield started
    for pod in started:
        pod.process.kill()
        pod.process.wait(30)


def test_the_pods_of_a_group_meet_answer_through_the_first_and_end_with_it(pods: list[Pod]) -> None:
    wait_until(lambda: all(pod.ready() for pod in pods), 240, "the group")
    body = json.dumps({"model": "chat", "prompt": "Once", "max_tokens": 4, "ignore_eos": True}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{pods[0].ports['--port']}/v1/completions", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=90) as answer:
        assert json.loads(answer.read())["usage"]["completion_tokens"] == 4
    pods[0].process.terminate()
    assert [pod.process.wait(90) for pod in pods] == [0, 0]
