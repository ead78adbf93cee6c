"""manifests/install.yaml, the chart's defaults: pods fit for `restricted`, settings that the programs take."""

from pathlib import PurePosixPath

import pytest

import chart
import podsecurity
from operated import settings_of
from ryzanstein_gateway.settings import read_settings
from ryzanstein_worker import contract

COMPONENTS = ("operator", "gateway")


def deployment(component: str) -> chart.Manifest:
    return chart.one(chart.installed(), "Deployment", f"ryzanstein-{component}")


@pytest.mark.parametrize("component", COMPONENTS)
def test_pods_pass_restricted_and_our_own_bar(component: str) -> None:
    assert podsecurity.complaints(deployment(component)["spec"]["template"], may_have_token=True) == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_token_is_projected_where_clients_look_for_it_and_lives_an_hour(component: str) -> None:
    spec = deployment(component)["spec"]["template"]["spec"]
    (mount,) = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "api-token"]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    (volume,) = [v for v in spec["volumes"] if v["name"] == "api-token"]
    assert [kind for source in volume["projected"]["sources"] for kind in source] == [
        "serviceAccountToken",
        "configMap",
        "downwardAPI",
    ]
    account = chart.one(chart.installed(), "ServiceAccount", spec["serviceAccountName"])
    assert account["automountServiceAccountToken"] is False


def test_the_operator_takes_the_settings_that_the_chart_gives() -> None:
    settings = settings_of(chart.installed())
    assert (settings.namespace, settings.watch_namespaces) == ("ryzanstein", ("ryzanstein",))
    assert settings.gateway_url == "http://ryzanstein-gateway.ryzanstein.svc"
    assert settings.lease_name == "ryzanstein-operator"
    gateway_pods = deployment("gateway")["spec"]["template"]["metadata"]["labels"]
    assert settings.gateway_labels.items() <= gateway_pods.items(), "workers would refuse the gateway"
    assert settings.gateway_labels.items() - deployment("operator")["spec"]["template"]["metadata"]["labels"].items()


def test_the_gateway_takes_the_settings_that_the_chart_gives() -> None:
    settings = read_settings(chart.environment(deployment("gateway")))
    assert (settings.namespace, settings.watch_namespaces) == ("ryzanstein", ("ryzanstein",))
    assert settings.auth_required
    spec = deployment("gateway")["spec"]["template"]["spec"]
    key_sets = [m["mountPath"] for m in spec["containers"][0]["volumeMounts"] if m["name"].startswith("keyset-")]
    assert [PurePosixPath(path).parent for path in key_sets] == [PurePosixPath(settings.keysets_dir)]
    assert PurePosixPath(key_sets[0]).name == contract.DEFAULT_KEY_SET
    assert spec["terminationGracePeriodSeconds"] > settings.drain_seconds + settings.drain_grace_seconds


def test_no_setting_is_given_that_no_program_reads() -> None:
    for component, package in (("operator", "operator/ryzanstein_operator"), ("gateway", "gateway/ryzanstein_gateway")):
        sources = [*(chart.ROOT / package).rglob("*.py"), chart.ROOT / "worker/ryzanstein_worker/contract.py"]
        text = "".join(path.read_text() for path in sources)
        (container,) = deployment(component)["spec"]["template"]["spec"]["containers"]
        unread = [entry["name"] for entry in container["env"] if f'"{entry["name"]}"' not in text]
        assert unread == [], f"the {component} is given settings that it ignores"


def test_ports_and_probes_are_the_contracts() -> None:
    for component in COMPONENTS:
        (container,) = deployment(component)["spec"]["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        own = (
            {"api": contract.API_PORT, "grpc": contract.GRPC_PORT}
            if component == "gateway"
            else {"demand": contract.DEMAND_PORT}
        )
        assert ports == {"health": contract.HEALTH_PORT} | own
        for probe, path in (
            ("startupProbe", contract.HEALTH_LIVE),
            ("livenessProbe", contract.HEALTH_LIVE),
            ("readinessProbe", contract.HEALTH_READY),
        ):
            assert container[probe]["httpGet"] == {"path": path, "port": "health"}


def test_the_gateway_finds_each_operator_and_both_hold_the_same_key() -> None:
    service = chart.one(chart.installed(), "Service", "ryzanstein-operator")
    assert service["spec"]["clusterIP"] == "None", "one address would be one operator, and it may not lead"
    operator, gateway = settings_of(chart.installed()), read_settings(chart.environment(deployment("gateway")))
    assert gateway.operator_url == f"http://ryzanstein-operator.ryzanstein.svc:{contract.DEMAND_PORT}"
    assert [port["port"] for port in service["spec"]["ports"]] == [contract.DEMAND_PORT]
    assert service["spec"]["selector"].items() <= (
        deployment("operator")["spec"]["template"]["metadata"]["labels"].items()
    )
    assert operator.demand_key_file == gateway.operator_key_file
    for component in COMPONENTS:
        spec = deployment(component)["spec"]["template"]["spec"]
        (volume,) = [v for v in spec["volumes"] if v["name"] == "demand-key"]
        secret = {"name": "ryzanstein-demand-key", "optional": True}
        assert volume["projected"]["sources"] == [{"secret": secret}]
        (mount,) = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "demand-key"]
        assert PurePosixPath(mount["mountPath"]) / "key" == PurePosixPath(gateway.operator_key_file)


def test_selectors_select_their_own_component_and_no_other() -> None:
    pods = {name: deployment(name)["spec"]["template"]["metadata"]["labels"] for name in COMPONENTS}
    for component, other in (COMPONENTS, COMPONENTS[::-1]):
        budget = chart.one(chart.installed(), "PodDisruptionBudget", f"ryzanstein-{component}")
        for selector in (deployment(component)["spec"]["selector"], budget["spec"]["selector"]):
            assert selector["matchLabels"].items() <= pods[component].items()
            assert not selector["matchLabels"].items() <= pods[other].items()
    service = chart.one(chart.installed(), "Service", "ryzanstein-gateway")["spec"]["selector"]
    assert service.items() <= pods["gateway"].items()
    assert not service.items() <= pods["operator"].items()


def test_the_definitions_are_the_generated_ones_and_survive_an_uninstall() -> None:
    generated = [
        document for path in sorted(chart.CRDS.glob("*.yaml")) for document in chart.documents(path.read_text())
    ]
    assert generated
    for definition in generated:
        shipped = chart.one(chart.installed(), "CustomResourceDefinition", definition["metadata"]["name"])
        assert shipped["spec"] == definition["spec"], "run `make crds`"
        assert shipped["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert len(chart.of_kind(chart.installed(), "CustomResourceDefinition")) == len(generated)


def test_the_install_holds_no_secret_and_says_how_to_make_one() -> None:
    assert chart.of_kind(chart.installed(), "Secret") == []
    for name in ("ryzanstein-keyset-default", "ryzanstein-demand-key"):
        assert f"kubectl create secret generic {name}" in chart.INSTALL.read_text()


def test_the_namespace_enforces_restricted() -> None:
    labels = chart.one(chart.installed(), "Namespace", "ryzanstein")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
