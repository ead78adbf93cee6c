"""A pydantic model as a structural schema, the JSON schema that Kubernetes takes. Knows no field by name."""

from typing import Any

from ryzanstein_operator.api.wire import Manifest, Wire

_DROPPED = ("title", "additionalProperties", "propertyNames")


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
