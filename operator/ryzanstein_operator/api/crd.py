"""The CustomResourceDefinition, generated from the models: `python -m ryzanstein_operator crds --output DIR`.

Knows what surrounds a schema in a CRD: names, columns, subresources. Knows no field of the spec.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from ryzanstein_operator.api import inference_service as resource
from ryzanstein_operator.api.reference import render_reference
from ryzanstein_operator.api.schema import structural_schema
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_worker.contract import API_GROUP, API_VERSION

FILE_NAME = f"{API_GROUP}_{resource.PLURAL}.yaml"
_HEADER = "# Generated from ryzanstein_operator/api by `make crds`; edit the models, not this file.\n"
_COLUMNS = (
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether all replicas serve the spec.", 0),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why, in one word.", 0),
    ("Replicas", "string", ".status.readyReplicas", "Replicas that answer requests.", 0),
    ("Desired", "string", ".status.desiredReplicas", "Replicas that there are to be.", 0),
    ("Model", "string", ".status.model.name", 'What clients put in "model".', 0),
    ("Age", "date", ".metadata.creationTimestamp", "Time since creation.", 0),
    ("URL", "string", ".status.url", "Base URL for OpenAI clients.", 1),
    ("URI", "string", ".spec.model.uri", "Where the model lies.", 1),
    ("Image", "string", ".spec.template.image", "Worker image, where it is not the default.", 1),
)


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


def main(argv: Sequence[str]) -> int:
    """`crds --output DIR [--reference FILE]`: writes what is generated from the models. Returns the exit status."""
    parser = argparse.ArgumentParser("ryzanstein_operator crds", description="Write the CRDs and their reference.")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the CRDs")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="Markdown file for the reference")
    arguments = parser.parse_args(argv)
    _write(arguments.output / FILE_NAME, render())
    if arguments.reference:
        _write(arguments.reference, render_reference())
    return 0


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(path)
