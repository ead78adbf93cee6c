"""The operator as a process: it starts from its environment, one of two leads, and a signal ends it cleanly."""

import functools
import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakeapi import FakeApi, wait_until
from operator_process import OperatorProcess
from ryzanstein_operator import logs
from ryzanstein_operator.__main__ import main
from ryzanstein_operator.cluster import lease
from ryzanstein_operator.cluster.resources import SERVICES
from ryzanstein_operator.desired.names import CHILD_KINDS, child_name
from ryzanstein_operator.handlers import run

pytestmark = pytest.mark.timeout(150)  # two processes start in some of them


@pytest.fixture
def start(fake_api: FakeApi, tmp_path: Path) -> Iterator[Callable[[str], OperatorProcess]]:
    started: list[OperatorProcess] = []
    environment = {
        "KUBECONFIG": str(fake_api.kubeconfig),
        "RYZANSTEIN_NAMESPACE": "release",
        "RYZANSTEIN_WATCH_NAMESPACES": "team",
        "RYZANSTEIN_WORKER_IMAGE": "ryzanstein/worker:dev",
    }

    def start_one(pod_name: str) -> OperatorProcess:
        process = OperatorProcess(environment | {"RYZANSTEIN_POD_NAME": pod_name}, tmp_path / f"{pod_name}.log")
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()


def a_service(name: str) -> dict[str, object]:
    metadata = {"namespace": "team", "name": name}
    spec = {"model": {"uri": "demo://"}, "replicas": 1}
    return {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": metadata, "spec": spec}


def has_children(api: FakeApi, name: str) -> bool:
    return all(api.get(kind, "team", child_name(kind, name)) for _, kind in CHILD_KINDS)


def test_one_of_two_leads_and_the_other_takes_over_when_it_ends(
    fake_api: FakeApi, start: Callable[[str], OperatorProcess]
) -> None:
    one, two = start("one"), start("two")
    wait_until(lambda: one.leads or two.leads, 60, "a leader")
    leader, standby = (one, two) if one.leads else (two, one)
    wait_until(lambda: "standby: the Lease is held by" in standby.probe("/health/ready")[1], 60, "a standby")
    assert standby.probe("/health/live")[0] == standby.probe("/health/ready")[0] == 200
    fake_api.put(a_service("first"))
    wait_until(lambda: has_children(fake_api, "first"), 30, "the first service's children")
    assert (leader.writes > 0, standby.writes) == (True, 0)

    status, seconds = leader.end(signal.SIGTERM)
    # Its own waits make less than five seconds; the rest is the machine's.
    assert (status, seconds < 10) == (0, True)
    assert lease.RELEASE_SECONDS + run.STOP_SECONDS <= 5
    wait_until(lambda: standby.leads, 12, "the standby's lead, before the Lease would have expired")
    fake_api.put(a_service("second"))
    wait_until(lambda: has_children(fake_api, "second"), 30, "the second service's children")
    assert "Released the Lease" in [record["message"] for record in leader.records()]
    assert not [record for process in (one, two) for record in process.records() if record["level"] == "error"]


@pytest.mark.slow
def test_an_operator_whose_lease_was_taken_ends_to_be_started_anew(
    fake_api: FakeApi, start: Callable[[str], OperatorProcess]
) -> None:
    process = start("one")
    wait_until(lambda: process.leads, 60, "the lead")
    held = fake_api.get("Lease", "release", "ryzanstein-operator")
    assert held is not None
    held["spec"]["holderIdentity"] = "thief"
    fake_api.put(held)
    assert process.process.wait(40) == 1
    assert "held by thief" in process.log.read_text()
    assert (fake_api.get("Lease", "release", "ryzanstein-operator") or {})["spec"]["holderIdentity"] == "thief"


@pytest.mark.slow
def test_the_logs_level_changes_without_a_restart(fake_api: FakeApi, start: Callable[[str], OperatorProcess]) -> None:
    process = start("one")
    wait_until(lambda: process.leads, 20, "the lead")
    words = "The log's level is {} from now on"

    def told(level: str) -> int:
        return [record["message"] for record in process.records()].count(words.format(level))

    assert {record["level"] for record in process.records()} <= {"info", "warning"}
    for level, number in (("debug", signal.SIGUSR1), ("info", signal.SIGUSR2)):
        process.process.send_signal(number)  # each by itself: of two that are pending the lower number is heard first
        wait_until(functools.partial(told, level), 10, f"the change to {level}")
        process.process.send_signal(number)  # no change
        fake_api.put(a_service(f"seen-at-{level}"))  # an idle operator has nothing to tell
        wait_until(functools.partial(has_children, fake_api, f"seen-at-{level}"), what="the service's children")
    assert "debug" in {record["level"] for record in process.records()}
    assert (told("debug"), told("info")) == (1, 1)
    after = len(process.records())
    fake_api.put(a_service("first"))
    wait_until(lambda: has_children(fake_api, "first"), what="the service's children")
    assert "debug" not in {record["level"] for record in process.records()[after:]}
    assert {record["key"] for record in process.records()[after:] if "actions" in record} >= {"team/first"}
    assert process.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "RYZANSTEIN_NAMESPACE is not set"),
        ({"RYZANSTEIN_NAMESPACE": "release", "RYZANSTEIN_WORKER_IMAGE": "w"}, "No credentials for a cluster"),
        ({"RYZANSTEIN_LOG_LEVEL": "loud"}, "LOUD"),
    ],
)
def test_what_keeps_it_from_starting_is_told_without_a_traceback(
    environment: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    monkeypatch.setattr(logs, "setup", _checked_level)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    others = set(threading.enumerate())
    assert main(["--host", "127.0.0.1", "--port", "0"]) == 1
    ours = [record for record in caplog.records if record.name.startswith("ryzanstein")]
    (record,) = [record for record in ours if record.levelname == "ERROR"]
    assert reason in vars(record)["error"]
    assert record.exc_info is None
    timers = [thread for thread in set(threading.enumerate()) - others if isinstance(thread, threading.Timer)]
    assert all(timer.finished.is_set() for timer in timers), "it would end whoever called main()"


def _checked_level(level: str) -> None:
    """logs.setup without its hold on the root logger, which is pytest's here."""
    logging.Logger("probe").setLevel(level.upper())


def test_the_other_commands_need_no_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert main(["crds", "--output", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("*.yaml"))) == 1
    file = tmp_path / "service.json"
    file.write_text(json.dumps(a_service("chat")))
    assert main(["plan", "-f", str(file)]) == 0
    assert "create Deployment team/chat" in capsys.readouterr().out
