"""The chart as tests see it: rendered manifests, from manifests/install.yaml without Helm or from Helm itself.

Knows files and how Helm is called; knows nothing of what the manifests should say.
"""

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/ryzanstein"
INSTALL = ROOT / "manifests/install.yaml"
SAMPLES = ROOT / "manifests/samples"
CRDS = ROOT / "crds"
VALUES = ROOT / "tests/contract/values"
BUILD_SECONDS = 900.0
"""Helm is built from its module where a machine has none."""
RENDER_SECONDS = 180.0

Manifest = dict[str, Any]


class HelmError(Exception):
    """Helm refused. `words` is what it printed."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


def documents(text: str) -> list[Manifest]:
    """Every object of a YAML stream."""
    return [document for document in yaml.safe_load_all(text) if document]


@cache
def installed() -> tuple[Manifest, ...]:
    """What manifests/install.yaml installs: the chart's defaults."""
    return tuple(documents(INSTALL.read_text()))


@cache
def helm() -> str:
    """The path of Helm, built if there is none."""
    script = f"cd {ROOT} && source scripts/tools.sh && tool helm"
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=BUILD_SECONDS)
    if done.returncode:
        raise HelmError(done.stderr)
    return done.stdout.strip()


def run_helm(*arguments: str) -> str:
    """Helm's output. Raises HelmError with its words."""
    done = subprocess.run([helm(), *arguments], capture_output=True, text=True, timeout=RENDER_SECONDS)
    if done.returncode:
        raise HelmError(done.stderr)
    return done.stdout


def render(*settings: str, values: Path | None = None) -> list[Manifest]:
    """The chart with `--set` settings and a values file, as release `ryzanstein` in namespace `ryzanstein`."""
    arguments = [word for setting in settings for word in ("--set-json", setting)]
    if values:
        arguments += ["--values", str(values)]
    return documents(run_helm("template", "ryzanstein", str(CHART), "--namespace", "ryzanstein", *arguments))


def of_kind(manifests: Iterable[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def one(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    """The one object of this kind and name."""
    (found,) = [m for m in of_kind(manifests, kind) if m["metadata"]["name"] == name]
    return found


def environment(deployment: Manifest) -> dict[str, str]:
    """The plain environment of a Deployment's only container; what comes from a field is left out."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


@dataclass(frozen=True, order=True)
class Grant:
    """One verb of one resource for one subject. `scope` is a namespace, or * for the whole cluster."""

    subject: str
    scope: str
    group: str
    resource: str
    name: str
    verb: str


def grants(manifests: Sequence[Manifest]) -> list[Grant]:
    """Everything that Roles and ClusterRoles of `manifests` grant to whom, through their bindings."""
    roles = {_key(m["kind"], m["metadata"]): m for m in of_kind(manifests, "Role", "ClusterRole")}
    found: set[Grant] = set()
    for binding in of_kind(manifests, "RoleBinding", "ClusterRoleBinding"):
        namespace = binding["metadata"].get("namespace", "")
        reference = binding["roleRef"]
        role = roles[reference["kind"], namespace if reference["kind"] == "Role" else "", reference["name"]]
        for subject in binding["subjects"]:
            who = f"{subject['kind']}:{subject['namespace']}/{subject['name']}"
            found.update(grant for rule in role["rules"] for grant in _of_rule(who, namespace or "*", rule))
    return sorted(found)


def _key(kind: str, metadata: Mapping[str, str]) -> tuple[str, str, str]:
    return kind, metadata.get("namespace", ""), metadata["name"]


def _of_rule(who: str, scope: str, rule: Manifest) -> Iterable[Grant]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for name in rule.get("resourceNames") or ("",):
                for verb in rule["verbs"]:
                    yield Grant(who, scope, group, resource, name, verb)


def grant_lines(found: Iterable[Grant]) -> list[str]:
    """Grants as readable lines, verbs of one resource together: the form of the golden lists."""
    together: dict[tuple[str, ...], list[str]] = {}
    for grant in found:
        key = (grant.subject, grant.scope, grant.group, grant.resource, grant.name)
        together.setdefault(key, []).append(grant.verb)
    return [
        f"{subject} in {scope}: {group or 'core'}/{resource}{f'[{name}]' if name else ''}: {' '.join(sorted(verbs))}"
        for (subject, scope, group, resource, name), verbs in sorted(together.items())
    ]
