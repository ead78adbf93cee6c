"""A replica of several pods: its StatefulSet, what its pods are told, who reaches whom, and what a revision is."""

import argparse
from typing import Any

import pytest

from operator_builders import SETTINGS, desired, parsed, service
from podsecurity import complaints
from ryzanstein_operator.desired import names
from ryzanstein_operator.desired.children import children, revision
from ryzanstein_operator.desired.groups import stateful_set
from ryzanstein_operator.settings import Settings, Tracing
from ryzanstein_worker.config import add_serve_arguments

HUB = {"uri": "hf://Qwen/Qwen3-8B"}
Manifest = dict[str, Any]


def group(index: int = 0, *, name: str = "chat", tensor: int = 4, **spec: Any) -> Manifest:
    parallelism = {"tensor": tensor, "nodes": 2, **spec.pop("parallelism", {})}
    return stateful_set(parsed(service(name, parallelism=parallelism, **spec)), SETTINGS, index)


def pod(**spec: Any) -> Manifest:
    found: Manifest = group(**spec)["spec"]["template"]
    return found


def worker(**spec: Any) -> Manifest:
    (container,) = pod(**spec)["spec"]["containers"]
    return dict(container)


def test_a_group_is_a_stateful_set_named_after_service_revision_and_index() -> None:
    made = group(3)
    latest = made["metadata"]["labels"][names.LABEL_REVISION]
    name = f"chat-{latest[:6]}-3"
    assert made["metadata"]["name"] == name
    assert made["metadata"]["labels"]["ryzanstein.dev/group"] == name
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == ("uid-team-chat", True)
    spec = made["spec"]
    assert (spec["replicas"], spec["serviceName"], spec["podManagementPolicy"]) == (2, "chat-group", "Parallel")
    assert spec["updateStrategy"] == {"type": "OnDelete"}
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert spec["selector"]["matchLabels"] == {**names.selector("chat"), "ryzanstein.dev/group": name}
    assert labels[names.LABEL_REVISION] == latest


def test_two_groups_share_no_pod_and_the_longest_name_leaves_room_for_the_controller_s_hash() -> None:
    one, other = group(0), group(1)
    assert one["spec"]["selector"] != other["spec"]["selector"]
    assert len(group(9999, name="a" * 40)["metadata"]["name"]) + len("-5d8c6b7f9f") <= 63


def test_pods_know_their_place_and_where_the_first_one_is() -> None:
    made = worker()
    words = made["args"]
    flags = dict(zip(words[1::2], words[2::2], strict=False))
    latest = pod()["metadata"]["labels"][names.LABEL_REVISION]
    assert flags["--tensor-parallel-size"] == "4"
    assert flags["--nnodes"] == "2"
    assert flags["--node-rank"] == "$(RYZANSTEIN_NODE_RANK)"
    assert flags["--master-addr"] == f"chat-{latest[:6]}-0-0.chat-group.team.svc"
    assert flags["--master-port"] == "8004"
    environment = {entry["name"]: entry for entry in made["env"]}
    place = {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}}
    assert environment["RYZANSTEIN_NODE_RANK"]["valueFrom"] == place
    assert environment["RYZANSTEIN_REVISION"]["value"] == latest
    assert {"name": "group", "containerPort": 8004} in made["ports"]


@pytest.mark.parametrize("spec", [{}, {"accelerator": "nvidia.com/gpu"}, {"model": {"uri": "pvc://m"}}], ids=str)
def test_the_worker_s_own_parser_takes_what_a_pod_is_told(spec: Manifest) -> None:
    parser = argparse.ArgumentParser()
    add_serve_arguments(parser)
    words = [word.replace("$(RYZANSTEIN_NODE_RANK)", "1") for word in worker(**spec)["args"][1:]]
    chosen = parser.parse_args(words)
    assert (chosen.tensor_parallel_size, chosen.nnodes, chosen.node_rank) == (4, 2, 1)
    assert chosen.master_addr.endswith(".chat-group.team.svc")


def test_the_key_is_a_file_that_the_pod_s_group_may_read_and_nobody_writes() -> None:
    (volume,) = [volume for volume in pod()["spec"]["volumes"] if volume["name"] == "group-key"]
    assert volume["secret"] == {
        "secretName": "chat-group-key",
        "defaultMode": 0o440,
        "items": [{"key": "key", "path": "key"}],
    }
    (mount,) = [mount for mount in worker()["volumeMounts"] if mount["name"] == "group-key"]
    assert mount["readOnly"] is True
    (path,) = [entry["value"] for entry in worker()["env"] if entry["name"] == "RYZANSTEIN_GROUP_KEY_FILE"]
    assert path == f"{mount['mountPath']}/key"


@pytest.mark.parametrize("spec", [{}, {"model": HUB}, {"model": {"uri": "pvc://models"}}], ids=str)
def test_pods_of_a_group_pass_pod_security_restricted(spec: Manifest) -> None:
    limited = {"resources": {"limits": {"memory": "8Gi"}, "requests": {"cpu": 1, "memory": "8Gi"}}}
    assert complaints(pod(**spec, **limited)) == []


def test_each_pod_asks_for_its_own_ranks_alone() -> None:
    assert worker()["resources"]["requests"] == {"cpu": "500m", "memory": "1024Mi"}
    assert worker(accelerator="nvidia.com/gpu")["resources"]["limits"] == {"nvidia.com/gpu": "2"}


def test_pods_of_a_group_are_on_nodes_of_their_own_and_where_asked_for_in_one_zone() -> None:
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    made = pod()
    affinity, own = made["spec"]["affinity"], made["metadata"]["labels"]["ryzanstein.dev/group"]
    same = {"labelSelector": {"matchLabels": {"ryzanstein.dev/group": own}}}
    assert affinity["podAntiAffinity"][key] == [{**same, "topologyKey": "kubernetes.io/hostname"}]
    assert "podAffinity" not in affinity
    near = pod(parallelism={"topologyKey": "rack"})
    own = near["metadata"]["labels"]["ryzanstein.dev/group"]
    same = {"labelSelector": {"matchLabels": {"ryzanstein.dev/group": own}}}
    assert near["spec"]["affinity"]["podAffinity"][key] == [{**same, "topologyKey": "rack"}]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"replicas": 5}, True),
        ({"parallelism": {"placementTimeoutSeconds": 60}}, True),
        ({"disruption": {"maxSurge": 3}}, True),
        ({"parallelism": {"topologyKey": "rack"}}, False),
        ({"tensor": 8}, False),
        ({"engine": {"maxNumSeqs": 8}}, False),
        ({"template": {"image": "team/worker:2"}}, False),
    ],
)
def test_only_what_a_pod_sees_makes_a_new_revision(change: Manifest, same: bool) -> None:
    def latest(made: Manifest) -> str:
        return str(made["metadata"]["labels"][names.LABEL_REVISION])

    assert (latest(group()) == latest(group(**change))) is same
    assert latest(group(0)) == latest(group(7))


def test_what_is_made_once_has_no_deployment_and_a_service_for_names() -> None:
    live = parsed(service(parallelism={"tensor": 2, "nodes": 2}))
    found = [(child["apiVersion"], child["kind"], child["metadata"]["name"]) for child in children(live, SETTINGS, 1)]
    assert found == list(names.fixed_children("chat", 2))
    assert ("v1", "Service", "chat-group") in found
    assert "Deployment" not in [kind for _, kind, _ in found]
    assert revision(live, SETTINGS) == stateful_set(live, SETTINGS, 0)["metadata"]["labels"][names.LABEL_REVISION]


def services() -> dict[str, Manifest]:
    live = parsed(service(parallelism={"tensor": 2, "nodes": 2}))
    return {
        child["metadata"]["name"]: child["spec"] for child in children(live, SETTINGS, 1) if child["kind"] == "Service"
    }


def test_the_gateway_finds_first_pods_alone_and_the_pods_find_all_before_any_is_ready() -> None:
    first = {**names.selector("chat"), "apps.kubernetes.io/pod-index": "0"}
    assert services()["chat-workers"]["selector"] == first
    assert services()["chat-group"]["selector"] == names.selector("chat")
    assert services()["chat-group"]["publishNotReadyAddresses"] is True
    assert services()["chat-group"]["clusterIP"] == "None"
    assert names.selector_text("chat", 2) == (
        "ryzanstein.dev/inference-service=chat,ryzanstein.dev/role=worker,apps.kubernetes.io/pod-index=0"
    )


@pytest.mark.parametrize("tracing", [None, Tracing("http://collector:4318")])
def test_pods_of_groups_reach_each_other_and_names_and_nothing_else(tracing: Tracing | None) -> None:
    settings = Settings(namespace="release", worker_image="w", tracing=tracing)
    spec = desired(service(parallelism={"tensor": 2, "nodes": 2}), settings)["NetworkPolicy"]["spec"]
    pods = {"podSelector": {"matchLabels": names.selector("chat")}}
    ports = [{"protocol": "TCP", "port": 8004}, {"protocol": "TCP", "port": 32768, "endPort": 60999}]
    assert spec["ingress"][-1] == {"from": [pods], "ports": ports}
    assert spec["egress"][-1] == {"to": [pods], "ports": ports}
    dns = [rule for rule in spec["egress"] if {"protocol": "UDP", "port": 53} in rule["ports"]]
    assert len(dns) == 1
    assert len(spec["egress"]) == (3 if tracing else 2)


def test_a_drain_takes_one_pod_and_so_one_group_at_a_time() -> None:
    live = service(parallelism={"tensor": 2, "nodes": 2})
    spec = desired(live)["PodDisruptionBudget"]["spec"]
    assert spec["maxUnavailable"] == 1
    assert spec["selector"] == {"matchLabels": names.selector("chat")}
