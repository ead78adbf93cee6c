"""Writes the JSON schemas that kubeconform checks manifests with, from an API server's own OpenAPI and from crds/.

    python scripts/dump_schemas.py --context kind-ryzanstein     a cluster that kubectl reaches
    python scripts/dump_schemas.py --start                       an API server started for it (of the e2e build)
    python scripts/dump_schemas.py --crds-only                   only our own resources, no server needed

The result is small: one file of shared definitions (one line each, descriptions left out, only what KINDS reach) and
one file a kind that points into it. Objects are closed (additionalProperties: false), so a misspelt field is found.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = ROOT / "tests/contract/schemas"
CRDS = ROOT / "crds"
DEFINITIONS = "_definitions.json"
KINDS = (
    ("", "v1", "ConfigMap"),
    ("", "v1", "Namespace"),
    ("", "v1", "PersistentVolumeClaim"),
    ("", "v1", "Pod"),
    ("", "v1", "Secret"),
    ("", "v1", "Service"),
    ("", "v1", "ServiceAccount"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "StatefulSet"),
    ("batch", "v1", "Job"),
    ("coordination.k8s.io", "v1", "Lease"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
    ("policy", "v1", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole"),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io", "v1", "Role"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding"),
)
INT_OR_STRING = {"type": ["integer", "string"]}
NUMBER_OR_STRING = {"type": ["number", "string"]}
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"


def file_name(group: str, version: str, kind: str) -> str:
    """kubeconform's own naming: `deployment-apps-v1.json`, `service-v1.json`, `networkpolicy-networking-v1.json`."""
    group_word = group.split(".")[0]
    return "-".join(part for part in (kind.lower(), group_word, version) if part) + ".json"


def closed(schema: Any) -> Any:
    """`schema` for validation only: without prose and server-side extensions, with every known object closed."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        return dict(INT_OR_STRING)
    kept = {key: value for key, value in schema.items() if not key.startswith("x-") and key not in _PROSE}
    properties = kept.pop("properties", None)
    result = {key: closed(value) for key, value in kept.items()}
    if properties is not None:
        result["properties"] = {name: closed(value) for name, value in properties.items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
    if "$ref" in result:
        result["$ref"] = result["$ref"].replace("#/", f"{DEFINITIONS}#/")
    return result


_PROSE = {"description", "default", "format", "example"}


def references(schema: Any) -> Iterator[str]:
    """Names of the definitions that `schema` points to."""
    if isinstance(schema, Mapping):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from references(item)


def reachable(definitions: Mapping[str, Any], roots: list[str]) -> dict[str, Any]:
    """The definitions that `roots` need, closed, by name."""
    found: dict[str, Any] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = dict(NUMBER_OR_STRING) if name == QUANTITY else closed(definitions[name])
        waiting.extend(references(found[name]))
    return dict(sorted(found.items()))


def roots(definitions: Mapping[str, Any]) -> dict[tuple[str, str, str], str]:
    """KINDS to the names of their definitions. Raises KeyError for a kind that the server does not have."""
    by_kind = {
        (entry["group"], entry["version"], entry["kind"]): name
        for name, definition in definitions.items()
        for entry in definition.get("x-kubernetes-group-version-kind", ())
    }
    return {kind: by_kind[kind] for kind in KINDS}


def write_lines(path: Path, head: str, entries: Mapping[str, Any], tail: str) -> None:
    """One entry a line, so that a difference between two versions can be read."""
    lines = (f"{json.dumps(name)}:{json.dumps(entry, separators=(',', ':'))}" for name, entry in entries.items())
    path.write_text(head + ",\n".join(lines) + tail)


def write_server_schemas(definitions: Mapping[str, Any]) -> None:
    names = roots(definitions)
    write_lines(SCHEMAS / DEFINITIONS, '{"definitions":{\n', reachable(definitions, list(names.values())), "\n}}\n")
    for (group, version, kind), name in names.items():
        reference = {"$ref": f"{DEFINITIONS}#/definitions/{name}"}
        (SCHEMAS / file_name(group, version, kind)).write_text(json.dumps(reference) + "\n")


def write_crd_schemas() -> None:
    meta = {"metadata": {"type": "object"}, "apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    for path in sorted(CRDS.glob("*.yaml")):
        spec = yaml.safe_load(path.read_text())["spec"]
        for version in spec["versions"]:
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"] = {**schema["properties"], **meta}
            target = SCHEMAS / file_name(spec["group"], version["name"], spec["names"]["kind"])
            write_lines(target, "{", schema, "}\n")


def definitions_of_server(kubectl_arguments: list[str]) -> Mapping[str, Any]:
    command = ["kubectl", *kubectl_arguments, "get", "--raw", "/openapi/v2"]
    answer = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    definitions: Mapping[str, Any] = json.loads(answer)["definitions"]
    return definitions


def definitions_of_started_server() -> Mapping[str, Any]:
    sys.path.insert(0, str(ROOT / "tests/support"))
    import apiserver

    with tempfile.TemporaryDirectory() as directory, apiserver.running(Path(directory)) as server:
        return definitions_of_server([f"--kubeconfig={server.kubeconfig(apiserver.ADMIN)}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--context", help="the kubeconfig context of a running cluster")
    choice.add_argument("--start", action="store_true", help="start an API server for it")
    choice.add_argument("--crds-only", action="store_true", help="only our own resources, from crds/")
    arguments = parser.parse_args()
    SCHEMAS.mkdir(parents=True, exist_ok=True)
    if arguments.start:
        write_server_schemas(definitions_of_started_server())
    elif arguments.context:
        write_server_schemas(definitions_of_server([f"--context={arguments.context}"]))
    write_crd_schemas()


if __name__ == "__main__":
    main()
