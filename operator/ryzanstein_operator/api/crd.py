"""The CustomResourceDefinition, generated from the models: `python -m ryzanstein_operator crds --output DIR`.

Knows pydantic's JSON schema and what Kubernetes calls a structural schema; knows no field by name.
"""

from pathlib import Path
from typing import Any

import yaml

from ryzanstein_operator.api import inference_service as resource
from ryzanstein_operator.api.wire import Manifest, Wire
from ryzanstein_worker.contract import API_GROUP, API_VERSION

FILE_NAME = f"{API_GROUP}_{resource.PLURAL}.yaml"
_HEADER = "# Generated from ryzanstein_operator/api by `make crds`; edit the models, not this file.\n"
_DROPPED = ("title", "additionalProperties", "propertyNames")

_COLUMNS = (
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether all replicas serve the spec.", 0),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why, in one word.", 0),
    ("Replicas", "string", ".status.readyReplicas", "Replicas that answer requests.", 0),
    ("Model", "string", ".status.model.name", 'What clients put in "model".', 0),
    ("Age", "date", ".metadata.creationTimestamp", "Time since creation.", 0),
    ("URL", "string", ".status.url", "Base URL for OpenAI clients.", 1),
    ("URI", "string", ".spec.model.uri", "Where the model lies.", 1),
    ("Image", "string", ".spec.template.image", "Worker image, where it is not the default.", 1),
)


def structural_schema(model: type[Wire]) -> Manifest:
    """The model as a structural schema: no references, no nulls, no titles; defaults and rules in place."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _structural(schema, schema.get("$defs", {}))


def _structural(node: dict[str, Any], definitions: dict[str, Any]) -> Manifest:
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    if "x-kubernetes-int-or-string" in node:
        node = {**node, "anyOf": [{"type": "integer"}, {"type": "string"}]}
        return {key: value for key, value in node.items() if key not in _DROPPED}
    if "anyOf" in node:
        (some,) = [option for option in node["anyOf"] if option.get("type") != "null"]
        node = {**some, **{key: value for key, value in node.items() if key not in ("anyOf", "default")}}
        return _structural(node, definitions)
    out = {key: value for key, value in node.items() if key not in _DROPPED and not key.startswith("$")}
    if "description" in out:
        out["description"] = " ".join(out["description"].split())
    if "properties" in node:
        out["properties"] = {name: _property(child, definitions) for name, child in node["properties"].items()}
    if isinstance(node.get("additionalProperties"), dict):
        out["additionalProperties"] = _structural(node["additionalProperties"], definitions)
    if "items" in node:
        out["items"] = _structural(node["items"], definitions)
    return out


def _property(node: dict[str, Any], definitions: dict[str, Any]) -> Manifest:
    """A property; an object whose own properties have defaults is defaulted to them, so that they show.

    Spelled out, not `{}`: the API server holds a default to the rules before it fills in what lies deeper.
    """
    schema = _structural(node, definitions)
    inner = schema.get("properties", {})
    defaults = {name: child["default"] for name, child in inner.items() if "default" in child}
    if "anyOf" not in node and "required" not in schema and defaults:
        schema["default"] = defaults
    return schema


def custom_resource_definition() -> Manifest:
    """The CRD of InferenceService."""
    service = structural_schema(resource.InferenceService)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.PLURAL}.{API_GROUP}"},
        "spec": {
            "group": API_GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": resource.KIND,
                "listKind": f"{resource.KIND}List",
                "plural": resource.PLURAL,
                "singular": resource.SINGULAR,
                "shortNames": list(resource.SHORT_NAMES),
                "categories": [resource.CATEGORY],
            },
            "versions": [_version(service)],
        },
    }


def _version(service: Manifest) -> Manifest:
    return {
        "name": API_VERSION,
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": service["description"],
                "required": ["spec"],
                "x-kubernetes-validations": service["x-kubernetes-validations"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                    "spec": service["properties"]["spec"],
                    "status": structural_schema(resource.Status),
                },
            }
        },
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "description": text} | ({"priority": 1} if wide else {})
            for name, kind, path, text, wide in _COLUMNS
        ],
    }


def render() -> str:
    """The CRD as YAML, the same text for the same models."""
    return _HEADER + yaml.safe_dump(custom_resource_definition(), sort_keys=False, width=120, allow_unicode=True)


def write(directory: Path) -> Path:
    """Writes the CRD into `directory`, which is made if it is missing. Returns the file's path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / FILE_NAME
    path.write_text(render(), encoding="utf-8")
    return path
