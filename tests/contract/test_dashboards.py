"""Grafana's dashboards: what is shipped is what the code makes, complete, and asks for metrics that exist."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard as models

from panels import FOLDER, expand, shipped
from promql import groupings, selectors
from registries import families
from ryzanstein_dashboards.model import Dashboard
from ryzanstein_dashboards.pages import PAGES, file_name
from ryzanstein_dashboards.render import render
from ryzanstein_worker.contract import SERIES_NAMESPACE, SERIES_POD, SERIES_SERVICE

CHART = Path(__file__).resolve().parents[2] / "helm" / "ryzanstein" / "files" / "grafana"
SERIES = {name: family for family in families() for name in family.series}
ADDED = {"job", SERIES_NAMESPACE, SERIES_POD, SERIES_SERVICE, "le"}
"""By Prometheus, to all; `le` is of histograms' buckets."""
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.uid)


def panels(page: Dashboard) -> list[dict[str, Any]]:
    return [panel for panel in shipped(page)["panels"] if panel["type"] != "row"]


def queries(page: Dashboard) -> Iterator[str]:
    """With something in place of the variables."""
    names = {variable.name: "x" for variable in page.variables}
    for panel in panels(page):
        yield from (expand(target["expr"], names, "1m") for target in panel["targets"])


def test_the_files_are_what_the_code_makes_in_the_chart_as_well() -> None:
    for folder in (FOLDER, CHART):
        assert {path.name: path.read_text() for path in folder.glob("*")} == {
            file_name(page): render(page) for page in PAGES
        }, "run make crds"


def test_dashboards_have_uids_and_titles_of_their_own() -> None:
    loaded = [shipped(page) for page in PAGES]
    assert all(re.fullmatch("[a-z-]{8,40}", one["uid"]) for one in loaded)
    assert len({one["uid"] for one in loaded}) == len({one["title"] for one in loaded}) == len(PAGES)
    assert all(one["tags"] == ["ryzanstein"] and one["description"] for one in loaded)


@pages
def test_grafanas_own_types_read_each_file_and_leave_nothing_out(page: Dashboard) -> None:
    register_default_plugins()
    loaded = shipped(page)
    assert json.loads(json.dumps(models.Dashboard.from_json(loaded), cls=JSONEncoder)) == loaded


@pages
def test_each_panel_says_what_it_shows_and_in_which_unit(page: Dashboard) -> None:
    for panel in panels(page):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"], panel["title"]
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])
    titles = Counter((panel["title"], panel["gridPos"]["y"]) for panel in panels(page))
    assert max(titles.values()) == 1


@pages
def test_panels_fill_the_grid_and_cover_none(page: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    everything = shipped(page)["panels"]
    for panel in everything:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in everything}) == len(everything)


@pages
def test_each_query_asks_for_what_the_code_has(page: Dashboard) -> None:
    for query in queries(page):
        found = list(selectors(promql_parser.parse(query)))
        assert found, query
        for selector in found:
            if selector.name in ("up", "ALERTS"):
                continue
            assert selector.name in SERIES, f"no such metric: {selector.name} in {query}"
            family = SERIES[selector.name]
            labels = {matcher.name for matcher in selector.matchers.matchers}
            assert labels <= ADDED | set(family.labels), f"{selector.name} has no label {labels}: {query}"


@pages
def test_each_query_groups_by_labels_that_the_metrics_have(page: Dashboard) -> None:
    for query in queries(page):
        for labels, names in groupings(promql_parser.parse(query)):
            for family in (SERIES[name] for name in names if name in SERIES):
                assert labels <= ADDED | set(family.labels), f"{family.name} has no label {labels}: {query}"


@pages
def test_each_variable_is_the_label_of_a_metric_that_the_code_has(page: Dashboard) -> None:
    for variable in page.variables:
        (selector,) = selectors(promql_parser.parse(expand(variable.metric, {"namespace": "x"}, "1m")))
        family = SERIES[selector.name]
        assert variable.source_label in ADDED | set(family.labels)
        assert any(f"${variable.name}" in target["expr"] for panel in panels(page) for target in panel["targets"])


def test_a_variable_of_one_name_is_chosen_alike_on_each_page() -> None:
    """The links between pages carry variables over: a page that takes one service is lost with all of them."""
    alike: dict[str, set[tuple[str, bool, bool]]] = {}
    for page in PAGES:
        assert all(link["includeVars"] for link in shipped(page)["links"])
        for one in page.variables:
            alike.setdefault(one.name, set()).add((one.label, one.many, one.hidden))
    assert {name: kinds for name, kinds in alike.items() if len(kinds) > 1} == {}


def test_links_lead_to_dashboards_and_variables_that_exist() -> None:
    known = {page.uid: {variable.name for variable in page.variables} for page in PAGES}
    linked = re.findall(r"/d/([a-z-]+)\?([^\"]*)", json.dumps([shipped(page) for page in PAGES]))
    assert {uid for uid, _ in linked} == {"ryzanstein-service", "ryzanstein-worker"}
    for uid, rest in linked:
        assert set(re.findall(r"var-(\w+)=", rest)) <= known[uid]


def test_latencies_show_single_requests() -> None:
    for page in PAGES:
        for panel in panels(page):
            quantiles = [target for target in panel["targets"] if "histogram_quantile" in target["expr"]]
            if len(quantiles) == 3:
                assert all(target["exemplar"] for target in quantiles), panel["title"]
