"""Every sample is one that the operator takes, and its pods fit into a `restricted` namespace."""

import copy
from typing import Any

import pytest

import chart
import operated
import podsecurity

SAMPLES = operated.samples()


def worker_template(name: str) -> chart.Manifest:
    made = operated.children_of(SAMPLES[name], chart.installed(), "ryzanstein")
    template: chart.Manifest = operated.pods_of(made)["spec"]["template"]
    return template


def test_there_is_a_sample_for_each_way_to_name_a_model() -> None:
    schemes = {service["spec"]["model"]["uri"].partition("://")[0] for service in SAMPLES.values()}
    assert schemes >= {"demo", "hf", "pvc"}


@pytest.mark.parametrize("name", SAMPLES)
def test_worker_pods_pass_restricted_and_hold_no_token(name: str) -> None:
    assert podsecurity.complaints(worker_template(name)) == []


def set_in(template: Any, path: str, value: object) -> None:
    *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    for part in way:
        template = template[part]
    if value is None:
        template.pop(last)
    else:
        template[last] = value


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("spec/hostNetwork", True, "hostNetwork is set"),
        ("spec/automountServiceAccountToken", None, "automountServiceAccountToken is not false"),
        ("spec/enableServiceLinks", None, "enableServiceLinks is not false"),
        ("spec/serviceAccountName", None, "runs as the namespace's default service account"),
        ("spec/volumes/0", {"name": "host", "hostPath": {"path": "/"}}, "volume host is a hostPath"),
        ("spec/volumes/0", {"name": "tmp", "emptyDir": {}}, "volume tmp has no sizeLimit"),
        (
            "spec/volumes/0",
            {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            "mounts an API token",
        ),
        ("spec/securityContext/runAsNonRoot", None, "worker: runAsNonRoot is not true"),
        ("spec/securityContext/runAsUser", 1000, "worker: runAsUser is not at least 10000"),
        ("spec/securityContext/seccompProfile", None, "worker: seccompProfile is not RuntimeDefault"),
        ("spec/containers/0/securityContext/runAsUser", 0, "worker: runAsUser is not at least 10000"),
        ("spec/containers/0/securityContext/privileged", True, "worker: is privileged"),
        (
            "spec/containers/0/securityContext/allowPrivilegeEscalation",
            None,
            "worker: allowPrivilegeEscalation is not false",
        ),
        ("spec/containers/0/securityContext/readOnlyRootFilesystem", None, "worker: the root file system is writable"),
        (
            "spec/containers/0/securityContext/capabilities",
            {"drop": ["ALL"], "add": ["SYS_PTRACE"]},
            "worker: does not drop ALL capabilities and add none",
        ),
        (
            "spec/containers/0/ports/0",
            {"containerPort": 8000, "hostPort": 8000},
            "worker: takes a port of the host",
        ),
        ("spec/containers/0/resources", {}, "worker: has no cpu in requests"),
    ],
)
def test_a_fault_in_a_pod_is_told(path: str, value: object, complaint: str) -> None:
    template = copy.deepcopy(worker_template("demo.yaml"))
    set_in(template, path, value)
    assert complaint in podsecurity.complaints(template)
