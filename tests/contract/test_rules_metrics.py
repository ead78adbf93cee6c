"""Rules, runbooks and the page about KEDA ask for metrics, labels and words that the code has."""

import re
from collections.abc import Iterator

import promql_parser
import yaml

from promql import groupings, selectors
from registries import families
from rules import ROOT, RUNBOOKS, alerts, blocks, records, rules
from ryzanstein_gateway.line import Why
from ryzanstein_gateway.migrate import Ending, Step
from ryzanstein_operator.api.conditions import ConditionType
from ryzanstein_worker.contract import (
    JOB_GATEWAY,
    JOB_OPERATOR,
    JOB_WORKER,
    SERIES_NAMESPACE,
    SERIES_POD,
    SERIES_SERVICE,
)

SCALERS = ROOT / "docs" / "autoscaling-with-hpa-keda.md"
ADDED = {"job", SERIES_NAMESPACE, SERIES_POD, SERIES_SERVICE, "le"}
"""By Prometheus, to all that it scrapes of us; `le` is of histograms' buckets."""
LABELS = {series: ADDED | set(family.labels) for family in families() for series in family.series} | {"up": ADDED}
WORDS = {
    ("ryzanstein_gateway_admissions_total", "outcome"): {*Why, "admitted", "rate_limited"},
    ("ryzanstein_gateway_migrations_total", "reason"): {ending for ending in Ending if ending.lost},
    ("ryzanstein_gateway_migrations_total", "outcome"): {Step.GIVE_UP, Step.QUARANTINE, "resumed", "anew"},
    ("ryzanstein_operator_services", "condition"): set(ConditionType),
    ("ryzanstein_operator_services", "status"): {"True", "False", "Unknown"},
    ("ryzanstein_operator_scaling_decisions_total", "direction"): {"up", "down", "same", "held"},
    ("ryzanstein_operator_prometheus_query_failures_total", "why"): {"unusable"},
    ("up", "job"): {JOB_OPERATOR, JOB_GATEWAY, JOB_WORKER},
}
"""What the code says there. A rule that selects another word would never fire, and no test of promtool's tells."""


def asked() -> Iterator[tuple[str, str]]:
    """Who asks, and the query."""
    yield from ((rule.name, rule.expr) for rule in rules())
    for page in sorted(RUNBOOKS.glob("*.md")):
        for language, lines in blocks(page):
            if language == "promql":
                yield from ((page.stem, line) for line in lines)
    for language, lines in blocks(SCALERS):
        manifest = yaml.safe_load("\n".join(lines)) if language == "yaml" else {}
        for trigger in manifest.get("spec", {}).get("triggers", ()):
            yield SCALERS.stem, trigger["metadata"]["query"]


ASKED = tuple((asker, promql_parser.parse(query)) for asker, query in asked())


def test_rules_runbooks_and_the_page_about_keda_are_all_asked() -> None:
    askers = {asker for asker, _ in ASKED}
    assert {SCALERS.stem, *alerts(), *records()} == askers


def test_the_page_about_keda_counts_what_has_no_series_yet_as_none() -> None:
    """A sum is nothing, and whatever is added to it too, where one of its parts has no series."""
    queries = [str(tree) for asker, tree in ASKED if asker == SCALERS.stem]
    assert queries
    for query in queries:
        assert query.count("sum(") == query.count("vector(0)") > 0, query


def test_each_series_is_one_that_the_code_shows() -> None:
    for asker, tree in ASKED:
        for selector in selectors(tree):
            if not selector.name.startswith("prometheus_"):
                assert selector.name in LABELS or selector.name in records(), f"{asker}: {selector.name}"


def test_each_label_is_one_that_the_series_has() -> None:
    for asker, tree in ASKED:
        for selector in selectors(tree):
            if selector.name in LABELS:
                used = {matcher.name for matcher in selector.matchers.matchers}
                assert used <= LABELS[selector.name], f"{asker}: {selector.name} has no label {used}"
        for labels, names in groupings(tree):
            for name in LABELS.keys() & set(names) - {"up"}:  # which only says, beside another, whether it was there
                assert labels <= LABELS[name], f"{asker}: {name} has no label {labels}"


def test_each_word_that_is_selected_is_one_that_the_code_says() -> None:
    for asker, tree in ASKED:
        for selector in selectors(tree):
            for matcher in selector.matchers.matchers:
                known = WORDS.get((selector.name, matcher.name))
                if known is not None:
                    words = set(expanded(matcher.value))
                    assert words <= known, f"{asker}: {selector.name}{{{matcher.name}}} is never one of {words}"


def expanded(pattern: str) -> list[str]:
    """What `a|b` and `a-(b|c)` match."""
    found = re.fullmatch(r"([^(|]*)\((.*)\)([^(|]*)", pattern)
    return [found[1] + one + found[3] for one in found[2].split("|")] if found else pattern.split("|")


def test_rules_record_before_they_are_asked_for() -> None:
    """Within a group rules are evaluated one after the other: what comes later is a round late."""
    known: set[str] = set()
    for rule in records().values():
        own = {selector.name for selector in selectors(promql_parser.parse(rule.expr)) if ":" in selector.name}
        assert own <= known, rule.name
        known.add(rule.name)
    for rule in alerts().values():
        used = {selector.name for selector in selectors(promql_parser.parse(rule.expr)) if ":" in selector.name}
        assert used <= known, rule.name
