"""From our words to Grafana's JSON, by its own builders. Knows Grafana; knows no metric."""

import json
from typing import Any, Final, TypeVar

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from ryzanstein_dashboards.model import Dashboard, Kind, Panel, Query, Variable

TAG: Final = "ryzanstein"
REFRESH: Final = "10s"
_SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHTS: Final = {Kind.STAT: 4, Kind.TABLE: 9}
_Builder = TypeVar("_Builder", timeseries.Panel, stat.Panel, table.Panel)


def render(page: Dashboard) -> str:
    """The dashboard as JSON; the same page gives the same bytes."""
    built = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .description(page.description)
        .tags([TAG])
        .time("now-1h", "now")
        .refresh(REFRESH)
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(_to_the_others())
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for variable in page.variables:
        built.with_variable(_variable(variable))
    number = 0
    for row in page.rows:
        number += 1
        built.with_row(dashboard.Row(row.title).id(number))
        for one in row.panels:
            number += 1
            built.with_panel(_panel(one).id(number))
    return json.dumps(built.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _to_the_others() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("Ryzanstein").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(False).keep_time(True).include_vars(True)


def _variable(variable: Variable) -> dashboard.QueryVariable:
    built = (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(_SOURCE)
        .query(f"label_values({variable.metric}, {variable.source_label})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    if variable.many:
        everything = models.VariableOption(selected=True, text="All", value="$__all")
        built.multi(True).include_all(True).all_value(".*").current(everything)
    return built.hide(models.VariableHide.HIDE_VARIABLE) if variable.hidden else built


def _panel(one: Panel) -> timeseries.Panel | stat.Panel | table.Panel:
    if one.kind is Kind.STAT:
        return _stat(one)
    return _table(one) if one.kind is Kind.TABLE else _series(one)


def _common(built: _Builder, one: Panel) -> _Builder:
    built.title(one.title).description(_description(one)).datasource(_SOURCE).unit(one.unit)
    built.span(one.span).height(_HEIGHTS.get(one.kind, 8)).no_value("none" if _quiet(one) else "no data")
    steps: list[models.Threshold] = [models.Threshold(value=step.value, color=step.color) for step in one.steps]
    base = models.Threshold(value=None, color=one.base)
    built.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps([base, *steps]))
    if one.maximum is not None:
        built.max(one.maximum)
    return built if one.decimals is None else built.decimals(one.decimals)


def _description(one: Panel) -> str:
    reasons = dict.fromkeys(query.quiet for query in one.queries if query.quiet)
    return " ".join([one.description, *(f"No data where {reason}." for reason in reasons)])


def _quiet(one: Panel) -> bool:
    return all(query.quiet for query in one.queries)


def _query(query: Query, number: int) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(_reference(number))


def _reference(number: int) -> str:
    return chr(ord("A") + number)


def _series(one: Panel) -> timeseries.Panel:
    built = _common(timeseries.Panel(), one).min(0)
    legend = common.VizLegendOptions().display_mode(common_models.LegendDisplayMode.TABLE).calcs(["lastNotNull", "max"])
    built.legend(legend.placement(common_models.LegendPlacement.BOTTOM).show_legend(True))
    tooltip = common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI)
    built.tooltip(tooltip.sort(common_models.SortOrder.DESCENDING))
    built.show_points(common_models.VisibilityMode.NEVER).line_width(1).fill_opacity(10)
    if one.kind is Kind.STACK:
        built.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL)).fill_opacity(30)
    if one.steps:
        dashed = common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        built.thresholds_style(dashed)
    for number, query in enumerate(one.queries):
        built.with_target(_query(query, number).range().exemplar(one.exemplars))
    return built


def _stat(one: Panel) -> stat.Panel:
    built = _common(stat.Panel(), one).graph_mode(common_models.BigValueGraphMode.AREA)
    built.color_mode(common_models.BigValueColorMode.VALUE)
    built.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    for number, query in enumerate(one.queries):
        built.with_target(_query(query, number).range())
    return built


def _table(one: Panel) -> table.Panel:
    """One row for each set of labels, one column for each query."""
    built = _common(table.Panel(), one).align(common_models.FieldTextAlignment.AUTO).inspect(False)
    titles = {f"Value #{_reference(number)}": query.legend for number, query in enumerate(one.queries)}
    built.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    organized: dict[str, Any] = {"excludeByName": {"Time": True}, "renameByName": titles}
    built.with_transformation(models.DataTransformerConfig(id_val="organize", options=organized))
    for number, query in enumerate(one.queries):
        built.with_target(_query(query, number).instant().format(PromQueryFormat.TABLE))
        unit = models.DynamicConfigValue(id_val="unit", value=query.unit or one.unit)
        built.override_by_name(query.legend, [unit])
    return built.data_links([_to_the_row(one.links_to)]) if one.links_to else built


def _to_the_row(uid: str) -> dashboard.DashboardLink:
    names = ["namespace", "inference_service", *(["pod"] if uid.endswith("-worker") else [])]
    chosen = "&".join(f"var-{name}=${{__data.fields.{name}}}" for name in names)
    url = f"/d/{uid}?{chosen}&${{__url_time_range}}"
    return dashboard.DashboardLink("Open").type(models.DashboardLinkType.LINK).url(url)
