"""The CRD in a real API server: it is taken, defaults, refuses with our sentences, scales, prints columns."""

import json
import subprocess
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from apiserver import ADMIN, ApiServer, binaries, running
from fakeapi import wait_until
from operator_builders import NOW, SETTINGS, parsed, ready_pod, service, settled, status_in
from refused_specs import ACCEPTED, REFUSED, Case
from ryzanstein_operator.api.crd import render
from ryzanstein_operator.cluster.resources import SERVICES, resource_of
from ryzanstein_operator.decide.compare import differences
from ryzanstein_operator.decide.observed import Ref
from ryzanstein_operator.decide.reconcile import reconcile
from ryzanstein_operator.desired.children import children
from ryzanstein_operator.desired.groups import stateful_set

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(120)]

TEAM = "team"
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running(tmp_path_factory.mktemp("apiserver")) as started:
        started.request("POST", "/api/v1/namespaces", {"metadata": {"name": TEAM}})
        kubectl(started, "apply", "-f", "-", text=render())  # client-side: its annotation must fit
        wait_until(lambda: started.get(SERVICES.path(TEAM)), 60, "the CRD")
        yield started


def kubectl(server: ApiServer, *words: str, text: str = "") -> str:
    # A cache of its own: the home's knows other servers that had this port.
    own = (f"--kubeconfig={server.kubeconfig(ADMIN)}", f"--cache-dir={server.directory / 'kubectl'}")
    command = [str(binaries() / "kubectl"), *own, *words]
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=80, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def create(server: ApiServer, manifest: Manifest, *, dry: bool = True) -> Manifest:
    query = "?fieldValidation=Strict" + ("&dryRun=All" if dry else "")
    answer: Manifest = server.request("POST", SERVICES.path(TEAM) + query, manifest)
    return answer


def refusal(error: urllib.error.HTTPError) -> str:
    with error:
        return str(json.loads(error.read())["message"])


def test_a_server_side_apply_of_the_crd_changes_nothing(server: ApiServer) -> None:
    manifest = yaml.safe_load(render())
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{manifest['metadata']['name']}"
    before = server.get(path)["metadata"]["generation"]
    server.apply(path, manifest)
    assert server.get(path)["metadata"]["generation"] == before
    conditions = {item["type"]: item["status"] for item in server.get(path)["status"]["conditions"]}
    assert conditions.get("NonStructuralSchema") is None
    assert conditions["Established"] == "True"


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.title)
def test_a_wrong_spec_is_refused_with_its_sentence(server: ApiServer, case: Case) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        create(server, case.manifest)
    assert refused.value.code == 422
    assert case.sentence in refusal(refused.value)


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.title)
def test_a_right_spec_is_taken(server: ApiServer, case: Case) -> None:
    create(server, case.manifest)


def test_an_unknown_field_is_refused_by_name(server: ApiServer) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        create(server, Case("", "", {"adapters": {"maxRank": 2}}).manifest)
    assert 'unknown field "spec.adapters"' in refusal(refused.value)


def test_defaults_show_in_what_is_stored(server: ApiServer) -> None:
    spec = create(server, Case("", "").manifest)["spec"]
    assert spec == {
        "model": {"uri": "demo://"},
        "parallelism": {"tensor": 1, "nodes": 1, "placementTimeoutSeconds": 600},
        "accelerator": "cpu",
        "engine": {"dtype": "auto", "prefixCaching": True},
        "replicas": 1,
        "routing": {"policy": "Adaptive", "maxQueuedRequests": 256},
        "disruption": {"maxSurge": 1, "maxUnavailable": 0, "drainSeconds": 120},
    }


def test_the_defaults_of_autoscaling_are_stored_with_it(server: ApiServer) -> None:
    asked = {"maxReplicas": 4, "targets": [{"metric": "WaitingRequests", "value": 4}]}
    spec = create(server, Case("", "", {"autoscaling": asked}).manifest)["spec"]
    readily = {"selectPolicy": "Max", "tolerancePercent": 10}
    assert spec["autoscaling"] == {
        **asked,
        "minReplicas": 1,
        "idleSecondsBeforeZero": 600,
        "behavior": {"scaleUp": readily, "scaleDown": readily},
    }
    assert spec["replicas"] == 1


def test_the_model_name_cannot_change_and_other_fields_can(server: ApiServer) -> None:
    manifest = Case("", "", name="fixed").manifest
    create(server, manifest, dry=False)
    path = SERVICES.path(TEAM, "fixed")

    def patch(spec: Manifest) -> Manifest:
        answer: Manifest = server.request("PATCH", path, {"spec": spec}, Content_Type="application/merge-patch+json")
        return answer

    assert patch({"replicas": 2, "model": {"uri": "file:///models/x"}})["metadata"]["generation"] == 2
    assert patch({"model": {"name": "fixed"}})  # said aloud, it is the same name
    with pytest.raises(urllib.error.HTTPError) as refused:
        patch({"model": {"name": "other"}})
    assert "spec.model.name cannot change" in refusal(refused.value)


def test_the_count_of_pods_cannot_change(server: ApiServer) -> None:
    manifest = Case("", "", {"parallelism": {"tensor": 4}}, name="shape").manifest
    create(server, manifest, dry=False)
    path = SERVICES.path(TEAM, "shape")
    merge = {"Content_Type": "application/merge-patch+json"}
    assert server.request("PATCH", path, {"spec": {"parallelism": {"tensor": 2}}}, **merge)
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.request("PATCH", path, {"spec": {"parallelism": {"nodes": 2}}}, **merge)
    assert "nodes cannot change" in refusal(refused.value)


def test_kubectl_applies_both_ways_scales_and_prints_columns(server: ApiServer) -> None:
    text = json.dumps(Case("", "", name="shown").manifest)
    kubectl(server, "apply", "-n", TEAM, "-f", "-", text=text)
    kubectl(server, "apply", "--server-side", "--force-conflicts", "-n", TEAM, "-f", "-", text=text)
    kubectl(server, "scale", "-n", TEAM, "rzi/shown", "--replicas=3")
    assert server.get(SERVICES.path(TEAM, "shown"))["spec"]["replicas"] == 3
    header = kubectl(server, "get", "-n", TEAM, "ryzanstein", "-o", "wide").splitlines()[0].split()
    assert header == ["NAME", "READY", "REASON", "REPLICAS", "DESIRED", "MODEL", "AGE", "URL", "URI", "IMAGE"]
    assert "Tensor-parallel ranks in each replica" in kubectl(server, "explain", "rzi.spec.parallelism.tensor")


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.title)
def test_what_was_applied_shows_no_difference(server: ApiServer, case: Case) -> None:
    """Else the operator would write the same thing for ever: every default and every normalisation is understood."""
    wanted = parsed(service(case.name, **case.spec))
    several = wanted.spec.parallelism.nodes > 1
    for manifest in (
        *children(wanted, SETTINGS, wanted.spec.replicas),
        *([stateful_set(wanted, SETTINGS, 0)] if several else []),
    ):
        path = resource_of(Ref.of(manifest)).path(TEAM, manifest["metadata"]["name"])
        stored = server.apply(path, manifest, "ryzanstein-operator")
        assert list(differences(stored, manifest)) == []
        server.request("DELETE", path)


def test_a_status_as_we_set_it_is_taken_whole(server: ApiServer) -> None:
    create(server, Case("", "", name="told").manifest, dry=False)
    live = server.get(SERVICES.path(TEAM, "told"))
    status = status_in(reconcile(settled(live, ready_pod(live)), SETTINGS, NOW))
    body = {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": {"name": "told"}, "status": status}
    stored = server.apply(f"{SERVICES.path(TEAM, 'told')}/status", body)
    assert stored["status"] == status
    scale = server.get(f"{SERVICES.path(TEAM, 'told')}/scale")
    assert scale["status"] == {"replicas": 1, "selector": status["selector"]}
