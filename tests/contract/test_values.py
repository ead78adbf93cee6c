"""values.yaml explains every value, and values.schema.json knows them all, and nothing that is not there."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

import chart

VALUES_TEXT = (chart.CHART / "values.yaml").read_text()
DEFAULTS = yaml.safe_load(VALUES_TEXT)
SCHEMA = json.loads((chart.CHART / "values.schema.json").read_text())
HELMS_OWN = {"global"}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema`, or what its $ref points to."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return SCHEMA["definitions"][name] if name else schema


def schema_paths(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every value that the schema names, as a dotted path; lists and maps of free keys are leaves."""
    properties = resolved(schema).get("properties", {})
    if not properties:
        yield path.removeprefix(".")
    for name, inner in properties.items():
        yield from schema_paths(inner, f"{path}.{name}")


def default_paths(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    properties = resolved(schema).get("properties", {})
    if not properties:
        yield path.removeprefix(".")
        return
    for name, inner in value.items():
        yield from default_paths(inner, properties[name], f"{path}.{name}")


def test_the_defaults_pass_the_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(DEFAULTS, SCHEMA)


def test_the_schema_names_the_defaults_and_nothing_else() -> None:
    assert set(schema_paths(SCHEMA)) - HELMS_OWN == set(default_paths(DEFAULTS, SCHEMA))


def test_every_object_of_the_schema_refuses_unknown_keys() -> None:
    def open_objects(schema: Any, path: str = "") -> Iterator[str]:
        if isinstance(schema, dict):
            is_object = schema.get("type") == "object" and "properties" in schema
            if is_object and schema.get("additionalProperties") is not False:
                yield path
            for key, inner in schema.items():
                yield from open_objects(inner, f"{path}/{key}")

    assert list(open_objects(SCHEMA)) == []


def test_every_value_is_explained() -> None:
    lines = VALUES_TEXT.splitlines()
    unexplained = []
    for number, line in enumerate(lines):
        leaf = re.match(r"( *)([a-zA-Z]+):( .+)$", line)
        if leaf and not lines[number - 1].lstrip().startswith("#"):
            unexplained.append(leaf[2])
    # Items of an explained list or map stand under it.
    assert set(unexplained) <= {"requests", "limits", "secretName"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"gateway": {"replica": 3}}, "replica"),
        ({"gateway": {"replicas": 0}}, "minimum"),
        ({"gateway": {"auth": "maybe"}}, "maybe"),
        ({"gateway": {"maxBodyBytes": "8Mi"}}, "integer"),
        ({"gateway": {"drainSeconds": 0}}, "minimum"),
        ({"gateway": {"service": {"nodePort": 80}}}, "80"),
        ({"gateway": {"keySets": [{"name": "Team A"}]}}, "Team A"),
        ({"gateway": {"keySets": [{"secretName": "x"}]}}, "name"),
        ({"gateway": {"resources": {"limits": {"cpu": "banana"}}}}, "banana"),
        ({"gateway": {"resources": {"limits": {"gpu": 1}}}}, "gpu"),
        ({"operator": {"replicas": 1.5}}, "1.5"),
        ({"operator": {"serviceAccountName": "admin"}}, "serviceAccountName"),
        ({"images": {"worker": {"tag": "a b"}}}, "a b"),
        ({"images": {"sidecar": {}}}, "sidecar"),
        ({"imagePullPolicy": "Sometimes"}, "Sometimes"),
        ({"watchNamespaces": ["a", "a"]}, "non-unique"),
        ({"watchNamespaces": "default"}, "array"),
        ({"networkPolicy": {"apiServerPorts": []}}, "non-empty"),
        ({"networkPolicy": {"gatewayFrom": [{}]}}, "non-empty"),
        ({"networkPolicy": {"gatewayFrom": [{"ipBlock": {"cidr": "everywhere"}}]}}, "everywhere"),
        ({"netwrokPolicy": {}}, "netwrokPolicy"),
        ({"prometheus": {"scrapeIntervalSeconds": 0}}, "minimum"),
        ({"prometheus": {"retention": "a day"}}, "a day"),
        ({"prometheus": {"retentionSize": "1Gi"}}, "1Gi"),
        ({"prometheus": {"bearerTokenSecret": {"key": ""}}}, "non-empty"),
        ({"monitoring": {"podMonitors": "maybe"}}, "maybe"),
        ({"monitoring": {"runbookBaseUrl": "runbooks"}}, "runbooks"),
    ],
)
def test_nonsense_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(jsonschema.ValidationError) as refusal:
        jsonschema.validate(DEFAULTS | change, SCHEMA)
    assert word in refusal.value.message or word in str(refusal.value.validator)
