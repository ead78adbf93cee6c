"""docs/metrics.md is made from the code, and cannot be made while something is not explained."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import registries
from registries import families, undocumented_names

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "metrics_docs.py"))


def test_the_page_is_what_the_code_says(script: dict[str, Any]) -> None:
    metrics = families()
    assert list(script["faults"](metrics)) == []
    assert "\n".join(script["page"](metrics)) + "\n" == (ROOT / "docs/metrics.md").read_text(), "run make crds"


@pytest.mark.parametrize("change", [{"text": ""}, {"text": "Requests"}, {"labels": ("colour",)}])
def test_a_metric_that_is_not_explained_is_a_fault(script: dict[str, Any], change: dict[str, Any]) -> None:
    (fault,) = script["faults"]([replace(families()[0], **change)])
    assert families()[0].name in fault


def test_a_name_in_the_source_that_no_registry_has_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert undocumented_names() == []
    monkeypatch.setattr(registries.contract, "NEW", "ryzanstein_new", raising=False)
    assert undocumented_names() == ["ryzanstein_new"]


def test_vllms_names_stand_beside_ours(script: dict[str, Any]) -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    assert "`vllm:time_to_first_token_seconds`" in page
    assert {one.name for one in families()} >= set(script["IN_VLLM"])
