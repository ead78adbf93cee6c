"""The custom-resource reference as Markdown, from the models that make the CRD. Knows Markdown, no field by name."""

from collections.abc import Iterator
from typing import Any

from ryzanstein_operator.api import inference_service as resource
from ryzanstein_operator.api.reasons import EVENTS, MEANING, REASONS
from ryzanstein_operator.api.schema import structural_schema
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_worker.contract import API_GROUP, API_VERSION

_HEAD = f"""# Custom-resource reference

Generated from `ryzanstein_operator/api` by `make crds`; edit the models, not this file.

## {resource.KIND}

`apiVersion: {API_GROUP}/{API_VERSION}`, short name `{resource.SHORT_NAMES[0]}`, category `{resource.CATEGORY}`,
subresources `status` and `scale`.
"""
_HEADER = ("| Field | Type | Default | Bounds | What it says |", "| --- | --- | --- | --- | --- |")


def render_reference() -> str:
    """The whole page, the same text for the same models."""
    service = structural_schema(resource.InferenceService)
    parts = [
        _HEAD,
        f"{service['description']}\n",
        "### spec\n\nFields in **bold** must be given.\n",
        _table(service["properties"]["spec"]),
        "### What is refused\n\nThe API server refuses these, and so does `plan`, each with its sentence.\n",
        "\n".join(["| Where | Sentence |", "| --- | --- |", *_rules("", service)]) + "\n",
        "### status\n",
        _table(structural_schema(resource.Status)),
        _conditions(),
    ]
    return "\n".join(parts)


def _table(schema: Manifest) -> str:
    return "\n".join([*_HEADER, *_rows("", schema)]) + "\n"


def _rows(prefix: str, schema: Manifest) -> Iterator[str]:
    required = schema.get("required", ())
    for name, child in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        shown = f"**`{path}`**" if name in required else f"`{path}`"
        cells = (shown, _type(child), _default(child), _bounds(child), child.get("description", ""))
        yield f"| {' | '.join(_cell(cell) for cell in cells)} |"
        yield from _rows(f"{path}.", child)
        yield from _rows(f"{path}[].", child.get("items", {}))


def _type(schema: Manifest) -> str:
    if "x-kubernetes-int-or-string" in schema:
        return "quantity"
    if "enum" in schema:
        return " | ".join(f"`{value}`" for value in schema["enum"])
    if "items" in schema:
        return f"list of {_type(schema['items'])}"
    if "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'])}"
    return str(schema["type"])


def _default(schema: Manifest) -> str:
    default: Any = schema.get("default")
    if default in (None, "") or isinstance(default, dict):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _bounds(schema: Manifest) -> str:
    words = []
    if "minimum" in schema and "maximum" in schema:
        words.append(f"{schema['minimum']} to {schema['maximum']}")
    elif "minimum" in schema:
        words.append(f"at least {schema['minimum']}")
    for key, text in (("maxLength", "characters"), ("maxItems", "items"), ("maxProperties", "entries")):
        if key in schema and "enum" not in schema:
            words.append(f"at most {schema[key]} {text}")
    return ", ".join(words)


def _rules(path: str, schema: Manifest) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        where = f"{path}{rule.get('fieldPath', '')}".strip(".")
        yield f"| {f'`{where}`' if where else ''} | {_cell(rule['message'])} |"
    for name, child in schema.get("properties", {}).items():
        yield from _rules(f"{path}.{name}", child)
        yield from _rules(f"{path}.{name}[]", child.get("items", {}))


def _conditions() -> str:
    lines = ["### Conditions\n\nEach is set from the first visit on, with one of these reasons.\n"]
    for condition, reasons in REASONS.items():
        lines += [f"#### {condition}\n", "| Reason | What it means |", "| --- | --- |"]
        lines += [f"| `{reason}` | {MEANING[reason]} |" for reason in reasons]
        lines.append("")
    lines += [
        "### Events\n",
        "Events repeat a condition's reason and message when it changes. These are theirs alone.\n",
    ]
    lines += ["| Reason | What it means |", "| --- | --- |", *(f"| `{one}` | {MEANING[one]} |" for one in EVENTS), ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
