"""The generated CRD keeps the rules of our API: bounded, described, small, and as it is committed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ryzanstein_operator.api import crd, reference
from ryzanstein_operator.api.reasons import BROKEN, EVENTS, MEANING, REASONS, Reason

ROOT = Path(__file__).parents[3]
Schema = dict[str, Any]


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if name in schema:
            yield from nodes(schema[name], f"{path}[]")


@pytest.fixture(scope="module")
def schemas() -> dict[str, Schema]:
    version = crd.custom_resource_definition()["spec"]["versions"][0]
    whole = version["schema"]["openAPIV3Schema"]
    return {path: node for part in ("spec", "status") for path, node in nodes(whole["properties"][part], f".{part}")}


def test_every_string_list_and_map_is_bounded(schemas: dict[str, Schema]) -> None:
    bound = {"string": "maxLength", "array": "maxItems"}
    for path, schema in schemas.items():
        needed = "maxProperties" if "additionalProperties" in schema else bound.get(schema.get("type", ""))
        assert needed is None or needed in schema or "enum" in schema, path
        assert schema.get("type") != "number", f"{path} is a float"


def test_every_field_is_described(schemas: dict[str, Schema]) -> None:
    for path, schema in schemas.items():
        if not path.endswith("[]"):
            assert schema.get("description", "").endswith((".", "`.")), path


def test_every_rule_tells_what_to_do_in_a_sentence_of_its_own() -> None:
    version = crd.custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for _, schema in nodes(version):
        told = [(rule["message"], rule.get("fieldPath")) for rule in schema.get("x-kubernetes-validations", ())]
        assert len(told) == len(set(told))
        assert all(len(message) > 20 for message, _ in told if "key set once" not in message)


def test_the_crd_stays_small_enough_for_a_client_side_apply() -> None:
    assert len(crd.render().encode()) < 100_000


def test_what_is_committed_is_what_the_models_say() -> None:
    assert (ROOT / "crds" / crd.FILE_NAME).read_text() == crd.render()
    assert (ROOT / "docs" / "reference.md").read_text() == reference.render_reference()


def test_the_command_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main(["--output", str(tmp_path / "a" / "crds"), "--reference", str(tmp_path / "b" / "r.md")]) == 0
    assert (tmp_path / "a" / "crds" / crd.FILE_NAME).read_text() == crd.render()
    assert (tmp_path / "b" / "r.md").read_text() == reference.render_reference()
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_reference_shows_every_field_rule_and_reason(schemas: dict[str, Schema]) -> None:
    page = reference.render_reference()
    for path in schemas:
        field = path.removeprefix(".spec").removeprefix(".status").removeprefix(".")
        if field and not field.endswith("[]"):
            assert f"`{field}`" in page
    for schema in schemas.values():
        assert all(rule["message"] in page for rule in schema.get("x-kubernetes-validations", ()))
    assert all(f"`{reason}`" in page and MEANING[reason] in page for reason in Reason)


def test_a_table_row_survives_a_pipe_in_a_description() -> None:
    lines = [line for line in reference.render_reference().splitlines() if line.startswith("| `engine.dtype`")]
    assert lines[0].replace("\\|", "").count("|") == 6


def test_every_reason_has_a_meaning_and_a_place() -> None:
    assert set(MEANING) == set(Reason)
    placed = {reason for reasons in REASONS.values() for reason in reasons}
    assert set(Reason) - placed == set(EVENTS)
    assert set(BROKEN) <= placed
