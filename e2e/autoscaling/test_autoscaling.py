"""One service follows its load: from zero to one for the first request, to four and back, and holds when it is blind.

The figures that docs/autoscaling.md publishes are printed at the end of the run, and lie in build/autoscaling.json.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import chaos
from autoscaling_times import Split, growth, wake
from chaos import clients
from cluster_view import OURS, ClusterView, Release
from recording import Recording, recording
from stories import Gateway, Manifest, conditions, service, until

NAME = "elastic"
AT_ONCE = ("--grace-period=0", "--force", "--ignore-not-found")  # it may end between kubectl's looking and deleting
MOST = 4
IDLE_SECONDS = 20
PROMETHEUS = "deployment/ryzanstein-prometheus"
RECORD = Path(__file__).parents[2] / "build/autoscaling.json"


def elastic() -> Manifest:
    """Two requests at a time in each replica, so that 32 clients keep a queue that four replicas do not empty."""
    down = {"stabilizationWindowSeconds": 15}
    return service(
        NAME,
        engine={"kvCacheMemory": "64Mi", "dtype": "float32", "maxNumSeqs": 2},
        autoscaling={
            "minReplicas": 0,
            "maxReplicas": MOST,
            "targets": [{"metric": "WaitingRequests", "value": 4}],
            "behavior": {"scaleDown": down},
            "idleSecondsBeforeZero": IDLE_SECONDS,
        },
    )


def test_the_size_follows_the_load_from_zero_to_four_and_back(
    cluster: ClusterView, release: Release, gateway: Gateway
) -> None:
    cluster.apply(elastic())
    with recording(cluster, NAME) as record:
        began = time.monotonic()
        _until_zero(cluster, 600, "no replica after the first, idle ones")

        waked = wake(gateway, NAME, record)
        _tell("a first request to a service at zero", waked)

        answers = chaos.expected(gateway, NAME)
        with clients(gateway, NAME, answers) as seen:
            loaded = time.monotonic()
            until(300, "four replicas are wanted", lambda: record.size_reached(MOST, loaded))
            until(600, "four replicas are ready", lambda: _ready(cluster) == MOST)
            # Every token of a pod's is in the log of the gateway once its request has ended.
            grown = until(240, "the first token of a new replica", lambda: growth(release, record, loaded), every=2)
            until(60, "it is at its maximum", lambda: _condition(cluster, "ScalingLimited")["reason"] == "AtMaximum")
            _kill_prometheus(release)
            blind = time.monotonic()
            until(240, "ScalingActive is False", lambda: _condition(cluster, "ScalingActive")["status"] == "False")
            noticed = time.monotonic() - blind
        _tell("a load step of 32 clients on one replica", grown)
        seen.report("1 to 4 replicas, Prometheus killed, under load", f"blind after {noticed:.1f} s")
        assert seen.failures == []
        assert seen.different == []

        # There is nothing to do any more, and nobody who could say so.
        _holds(cluster, 30, lambda: record.sizes[-1][1] == MOST)
        said = _condition(cluster, "ScalingActive")
        assert said["reason"] == "MetricsUnavailable", said
        assert said["message"]

        release.kubectl("scale", PROMETHEUS, "--replicas=1")
        back = time.monotonic()
        until(300, "ScalingActive is True", lambda: _condition(cluster, "ScalingActive")["status"] == "True")
        seeing = time.monotonic() - back
        _until_zero(cluster, 600, "no replica is left after the load")
        gone = time.monotonic()
        after = f"sees again after {seeing:.1f} s, at zero after {gone - back:.1f} s"
        chaos.REPORT.append(f"autoscaling: Prometheus started, no load: {after}")
    _write(record, began, {"load": loaded, "blind": blind, "load ends": blind + noticed, "sees": back, "zero": gone})


def _until_zero(cluster: ClusterView, seconds: float, what: str) -> None:
    """A service that was only just made has no pods either: what counts is that its status says why it has none."""

    def at_zero() -> bool:
        said = conditions(cluster.service(NAME)).get("ScalingActive", {})
        return said.get("reason") == "AtZero" and not cluster.items("pods", f"{OURS}={NAME}")

    until(seconds, what, at_zero)


def _ready(cluster: ClusterView) -> int:
    return int(cluster.service(NAME)["status"].get("readyReplicas", 0))


def _condition(cluster: ClusterView, kind: str) -> Manifest:
    return dict(conditions(cluster.service(NAME))[kind])


def _kill_prometheus(release: Release) -> None:
    """It stays away until it is asked for again."""
    release.kubectl("scale", PROMETHEUS, "--replicas=0")
    release.kubectl("delete", "pod", "-l", "app.kubernetes.io/component=prometheus", *AT_ONCE)


def _holds(cluster: ClusterView, seconds: float, check: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert check(), cluster.service(NAME)["status"]
        time.sleep(0.5)


def _tell(what: str, split: Split) -> None:
    chaos.REPORT.append(f"autoscaling: {what}: {split}")
    print(chaos.REPORT[-1])


def _write(record: Recording, began: float, moments: dict[str, float]) -> None:
    """For `python -m bench.autoscaling.record`, which draws it."""
    sizes = [{"at": at - began, "desired": desired, "ready": ready} for at, desired, ready in record.sizes]
    told = {"clients": chaos.CLIENTS, "sizes": sizes, "moments": {name: at - began for name, at in moments.items()}}
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(told, indent=1) + "\n")
