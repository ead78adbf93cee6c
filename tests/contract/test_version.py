"""The version has one value, wherever it is written."""

import tomllib
from pathlib import Path

import yaml

from ryzanstein_worker.contract import VERSION

ROOT = Path(__file__).parents[2]


def test_pyproject_the_chart_and_the_contract_name_the_same_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((ROOT / "helm/ryzanstein/Chart.yaml").read_text())
    assert VERSION == project["version"] == chart["version"]
