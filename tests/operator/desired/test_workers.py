"""The Deployment that a spec leads to."""

import argparse
import copy
from itertools import pairwise
from typing import Any

import pytest

from operator_builders import SETTINGS, desired, revision_of, service
from podsecurity import complaints
from refused_specs import ACCEPTED, Case
from ryzanstein_operator.desired import names
from ryzanstein_operator.settings import Settings
from ryzanstein_worker.config import add_serve_arguments

HUB = {"uri": "hf://Qwen/Qwen3-8B"}
SINGLE = [case for case in ACCEPTED if case.spec.get("parallelism", {}).get("nodes", 1) == 1]
"""Those with one pod a replica; groups of several are in test_groups."""
Manifest = dict[str, Any]


def template(settings: Settings = SETTINGS, **spec: Any) -> Manifest:
    found: Manifest = desired(service(**spec), settings)["Deployment"]["spec"]["template"]
    return found


def worker(**spec: Any) -> Manifest:
    (container,) = template(**spec)["spec"]["containers"]
    return dict(container)


def flags(**spec: Any) -> dict[str, str]:
    """The worker's flags with their values; a flag without one has an empty value."""
    words = worker(**spec)["args"]
    assert words[0] == "serve"
    following = [*words[1:], "--"]
    return {
        word: "" if after.startswith("--") else after for word, after in pairwise(following) if word.startswith("--")
    }


def test_the_demo_model_runs_with_the_worker_s_own_choices() -> None:
    assert flags() == {
        "--model": "demo://",
        "--served-model-name": "chat",
        "--tensor-parallel-size": "1",
        "--host": "0.0.0.0",
        "--port": "8000",
        "--health-port": "8001",
        "--grpc-port": "8002",
        "--device": "cpu",
        "--dtype": "auto",
        "--drain-seconds": "120",
    }


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"model": {"uri": "demo://", "name": "tiny"}}, {"--served-model-name": "tiny"}),
        ({"model": {"uri": "file:///models/x"}}, {"--model": "file:///models/x"}),
        ({"model": {"uri": "pvc://models/qwen/8b"}}, {"--model": "/mnt/models/qwen/8b"}),
        ({"model": {"uri": "pvc://models"}}, {"--model": "/mnt/models"}),
        ({"model": {**HUB, "revision": "refs/pr/1"}}, {"--model": "/mnt/models/Qwen--Qwen3-8B@refs--pr--1"}),
        ({"parallelism": {"tensor": 4}}, {"--tensor-parallel-size": "4"}),
        ({"accelerator": "amd.com/gpu"}, {"--device": "cuda"}),
        ({"engine": {"kvCacheMemory": "8Gi"}}, {"--kv-cache-memory-bytes": str(8 * 2**30)}),
        ({"engine": {"maxModelLen": 4096, "maxNumSeqs": 8}}, {"--max-model-len": "4096", "--max-num-seqs": "8"}),
        ({"engine": {"maxBatchTokens": 64, "blockSize": 32}}, {"--max-num-batched-tokens": "64", "--block-size": "32"}),
        (
            {"engine": {"prefixCaching": False, "dtype": "float32"}},
            {"--no-enable-prefix-caching": "", "--dtype": "float32"},
        ),
        ({"disruption": {"drainSeconds": 1}}, {"--drain-seconds": "1"}),
    ],
)
def test_a_field_becomes_its_flag(spec: Manifest, expected: dict[str, str]) -> None:
    assert expected.items() <= flags(**spec).items()


@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.title)
def test_the_worker_s_own_parser_takes_every_flag_we_give(case: Case) -> None:
    parser = argparse.ArgumentParser()
    add_serve_arguments(parser)
    words = worker(**case.spec)["args"][1:]
    chosen = parser.parse_args(words)
    assert chosen.tensor_parallel_size == case.spec.get("parallelism", {}).get("tensor", 1)


@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.title)
def test_every_pod_passes_pod_security_restricted(case: Case) -> None:
    found = template(**case.spec)
    bounded = [fault for fault in complaints(found) if "limit" not in fault]
    assert bounded == []  # limits are the user's: a default would kill a large model


def test_a_claim_is_mounted_read_only_and_a_download_only_for_the_server() -> None:
    claim = template(model={"uri": "pvc://models/a"})["spec"]
    assert {"name": "model", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}} in claim["volumes"]
    cached = template(model={**HUB, "cacheClaim": "cache"})["spec"]
    assert {"name": "model", "persistentVolumeClaim": {"claimName": "cache"}} in cached["volumes"]
    scratch = template(model=HUB)["spec"]
    (volume,) = [volume for volume in scratch["volumes"] if volume["name"] == "model"]
    assert volume["emptyDir"]["sizeLimit"]
    for pod in (claim, cached, scratch):
        (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "model"]
        assert mount == {"name": "model", "mountPath": "/mnt/models", "readOnly": True}


def test_the_hub_token_is_seen_by_the_download_alone() -> None:
    settings = Settings(namespace="release", worker_image="w", hub_endpoint="https://mirror.example")
    pod = template(settings, model={**HUB, "tokenSecret": {"name": "hub", "key": "token"}})["spec"]
    (fetch,) = pod["initContainers"]
    assert fetch["args"] == [
        *("fetch", "--uri", "hf://Qwen/Qwen3-8B", "--revision", "main"),
        *("--output", "/mnt/models/Qwen--Qwen3-8B@main"),
    ]
    assert {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}} in fetch["env"]
    assert {"name": "HF_ENDPOINT", "value": "https://mirror.example"} in fetch["env"]
    assert [variable["name"] for variable in pod["containers"][0]["env"]] == ["HOME"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, {"requests": {"cpu": "250m", "memory": "512Mi"}}),
        ({"parallelism": {"tensor": 2}}, {"requests": {"cpu": "500m", "memory": "1024Mi"}}),
        (
            {"resources": {"requests": {"cpu": 4}, "limits": {"memory": "8Gi"}}},
            {"requests": {"cpu": "4"}, "limits": {"memory": "8Gi"}},
        ),
        (
            {"accelerator": "nvidia.com/gpu", "parallelism": {"tensor": 2}},
            {"requests": {"cpu": "500m", "memory": "1024Mi"}, "limits": {"nvidia.com/gpu": "2"}},
        ),
    ],
)
def test_resources_are_the_user_s_with_small_requests_where_nothing_is_said(spec: Manifest, expected: Manifest) -> None:
    assert worker(**spec)["resources"] == expected


def test_a_download_holds_no_accelerator() -> None:
    (fetch,) = template(model=HUB, accelerator="nvidia.com/gpu")["spec"]["initContainers"]
    assert fetch["resources"] == {"requests": {"cpu": "250m", "memory": "512Mi"}}


def test_a_rollout_goes_as_the_disruption_says() -> None:
    disruption = {"maxSurge": 2, "maxUnavailable": 1, "drainSeconds": 30}
    found = desired(service(replicas=4, disruption=disruption))["Deployment"]["spec"]
    assert found["replicas"] == 4
    assert found["strategy"]["rollingUpdate"] == {"maxSurge": 2, "maxUnavailable": 1}
    assert found["template"]["spec"]["terminationGracePeriodSeconds"] == 45


def test_image_policy_nodes_and_tolerations_come_from_the_template() -> None:
    chosen = {
        "image": "team/worker:2",
        "imagePullPolicy": "Always",
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }
    pod = template(template=chosen, model=HUB)["spec"]
    for container in (*pod["containers"], *pod["initContainers"]):
        assert (container["image"], container["imagePullPolicy"]) == ("team/worker:2", "Always")
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["tolerations"][0] == chosen["tolerations"][0]
    assert worker()["image"] == SETTINGS.worker_image


def test_liveness_gives_up_later_than_readiness_and_a_start_has_minutes() -> None:
    probes = worker()
    seconds = {
        name: probes[name]["periodSeconds"] * probes[name]["failureThreshold"] for name in probes if "Probe" in name
    }
    assert seconds["readinessProbe"] < seconds["livenessProbe"] < seconds["startupProbe"]
    assert seconds["startupProbe"] >= 300
    assert probes["livenessProbe"]["failureThreshold"] == 3
    assert {probe["httpGet"]["port"] for name, probe in probes.items() if "Probe" in name} == {"health"}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"replicas": 5}, True),
        ({"access": {"keySets": ["team-a"]}}, True),
        ({"routing": {"policy": "PrefixAware"}}, True),
        ({"disruption": {"maxSurge": 3}}, True),
        ({"engine": {"maxNumSeqs": 8}}, False),
        ({"parallelism": {"tensor": 2}}, False),
        ({"template": {"image": "team/worker:2"}}, False),
    ],
)
def test_only_what_a_worker_sees_makes_a_new_revision(change: Manifest, same: bool) -> None:
    assert (revision_of(service()) == revision_of(service(**change))) is same


@pytest.mark.parametrize("policy", ["RoundRobin", "PrefixAware"])
def test_what_the_gateway_alone_needs_changes_nothing_of_the_workers(policy: str) -> None:
    routing = {"policy": policy, "maxQueuedRequests": 5, "queueTimeoutSeconds": 600}
    access = {"requestsPerMinute": 60, "tokensPerMinute": 1000, "maxConcurrentRequests": 2}
    changed = desired(service(routing=routing, access=access))
    assert changed["Deployment"] == desired(service())["Deployment"]


def test_the_pods_carry_the_selector_and_the_revision() -> None:
    found = desired(service())["Deployment"]["spec"]
    labels = found["template"]["metadata"]["labels"]
    assert found["selector"]["matchLabels"].items() <= labels.items()
    assert names.LABEL_REVISION not in found["selector"]["matchLabels"]
    (spread,) = found["template"]["spec"]["topologySpreadConstraints"]
    (apart,) = found["template"]["spec"]["affinity"]["podAntiAffinity"].values()
    for term in (spread, apart[0]["podAffinityTerm"]):
        chosen = term["labelSelector"]["matchLabels"]
        assert chosen.items() <= labels.items()
        assert names.LABEL_REVISION in chosen
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway"
    assert apart[0]["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"


LOST = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


@pytest.mark.parametrize(
    ("chosen", "ours"),
    [
        ([], LOST),
        ([{"key": "gpu", "operator": "Exists"}], LOST),
        ([{"key": LOST[1], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}], LOST[:1]),
        ([{"key": LOST[1], "operator": "Exists", "effect": "NoSchedule"}], LOST),
        ([{"operator": "Exists"}], ()),
        ([{"operator": "Exists", "effect": "NoExecute"}], ()),
    ],
)
def test_pods_leave_a_node_that_kubernetes_calls_lost_soon_unless_the_user_says_otherwise(
    chosen: list[dict[str, Any]], ours: tuple[str, ...]
) -> None:
    found = template(template={"tolerations": chosen})["spec"]["tolerations"]
    assert found[: len(chosen)] == chosen
    assert tuple(one["key"] for one in found[len(chosen) :]) == ours
    assert all((one["effect"], one["tolerationSeconds"]) == ("NoExecute", 30) for one in found[len(chosen) :])


def test_the_same_input_gives_the_same_manifests_and_stays_as_it_was() -> None:
    live = service(model=HUB, template={"nodeSelector": {"a": "b"}})
    before = copy.deepcopy(live)
    one, other = desired(live), desired(live)
    assert one == other
    one["Deployment"]["spec"]["template"]["spec"]["nodeSelector"]["a"] = "changed"
    one["Deployment"]["spec"]["template"]["spec"]["volumes"][0]["emptyDir"]["sizeLimit"] = "changed"
    assert desired(live) == other
    assert live == before
