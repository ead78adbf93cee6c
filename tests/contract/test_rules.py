"""Alert and recording rules: complete, each shown to fire and to stay silent, each alert with a runbook.

That promtool finds the rules sound, and that its tests of them (tests/rules) pass, `make lint` shows.
"""

import ast
import functools
import re
import shlex
from collections import Counter

import promql_parser
import pytest
import yaml

from rules import ROOT, RULES, RUNBOOKS, Rule, alerts, blocks, promtool_tests, records, rules
from ryzanstein_gateway.logs import AccessEntry
from ryzanstein_gateway.migrate import Step
from ryzanstein_kubectl.commands.line import parser

HEADINGS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
each_alert = pytest.mark.parametrize("alert", alerts().values(), ids=alerts().keys())


@each_alert
def test_an_alert_says_how_grave_it_is_what_happened_and_where_to_read_on(alert: Rule) -> None:
    body = alert.body
    assert re.fullmatch("Ryzanstein([A-Z][A-Za-z]+)+", alert.name)
    assert body["labels"]["severity"] in ("critical", "warning", "info")
    assert re.fullmatch(r"\d+[mh]", body["for"])
    annotations = body["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert "$value" in annotations["description"]
    assert "$labels." in annotations["description"]
    assert annotations["description"].endswith(".")
    assert not annotations["summary"].endswith(".")
    # The chart puts a base before it, so it must be a path in the repository, written just so.
    assert annotations["runbook_url"] == f"docs/runbooks/{alert.name}.md"


def test_a_file_has_one_group_of_its_name_and_no_rule_is_there_twice() -> None:
    for path in RULES.glob("*"):
        (group,) = yaml.safe_load(path.read_text())["groups"]
        assert f"{group['name']}.yaml" == path.name
    assert max(Counter(rule.name for rule in rules()).values()) == 1


def test_a_recording_is_named_level_metric_operations() -> None:
    for name in records():
        level, metric, operations = name.split(":")
        assert metric.startswith("ryzanstein_"), name
        assert re.fullmatch("(ratio_|p[0-9]{2}_)?rate(5m|30m|1h|6h)", operations), name
        asked = {label for label in ("namespace", "model", "inference_service", "le") if label in level}
        assert "_".join(sorted(asked, key=level.index)) == level, name


@each_alert
def test_an_alert_is_shown_to_fire_not_before_its_time_and_to_stay_silent(alert: Rule) -> None:
    firing = [test for test in promtool_tests() if test["name"].startswith(f"{alert.name} fires")]
    silent = [test for test in promtool_tests() if test["name"].startswith(f"{alert.name} stays silent")]
    for test in [*firing, *silent]:
        assert {check["alertname"] for check in test["alert_rule_test"]} == {alert.name}, test["name"]
    assert any(
        before.get("exp_alerts") is None and after.get("exp_alerts")
        for test in firing
        for before, after in zip(test["alert_rule_test"], test["alert_rule_test"][1:], strict=False)
    )
    assert any(check.get("exp_alerts") is None for test in silent for check in test["alert_rule_test"])


def test_what_each_recording_gives_is_checked() -> None:
    checked = [check["expr"] for test in promtool_tests() for check in test.get("promql_expr_test", ())]
    assert sorted(checked) == sorted(records())


# --- Runbooks --------------------------------------------------------------------------------------------


def test_each_alert_has_a_runbook_and_no_runbook_is_left_over() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*")} == {"README", *alerts()}


@each_alert
def test_a_runbook_has_its_parts_and_a_way_to_look(alert: Rule) -> None:
    page = RUNBOOKS / f"{alert.name}.md"
    text = page.read_text()
    assert text.startswith(f"# {alert.name}\n")
    assert re.findall("^## (.+)$", text, re.MULTILINE) == HEADINGS
    assert all(part.strip() for part in re.split("^## .+$", text, flags=re.MULTILINE))
    assert any(language == "promql" for language, _ in blocks(page)) or "kubectl" in text
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (page.parent / link).is_file(), link


def test_the_index_lists_each_alert_as_its_rule_is() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \| (\w+) \|", (RUNBOOKS / "README.md").read_text(), re.M)
    wanted = [(name, name, one.body["labels"]["severity"], one.body["for"]) for name, one in alerts().items()]
    assert sorted(rows) == sorted(wanted)


@each_alert
def test_the_commands_of_a_runbook_can_be_typed(alert: Rule) -> None:
    for language, lines in blocks(RUNBOOKS / f"{alert.name}.md"):
        for line in lines:
            if language == "promql":
                promql_parser.parse(line)
            elif line.startswith("kubectl ryzanstein"):
                parser().parse_args(shlex.split(line, comments=True)[2:])
            else:
                assert shlex.split(line, comments=True)[0] == "kubectl", line


PARTS = {"operator": "operator/ryzanstein_operator", "gateway": "gateway/ryzanstein_gateway"}
LEVELS = {"debug", "info", "warning", "error", "exception"}
IN_FIELDS = {str(Step.GIVE_UP), *(f'"{name}":5' for name in AccessEntry.__struct_fields__)}
"""What is looked for in a line's values and not in its words."""


@functools.cache
def logged(part: str) -> str:
    """All the words of a part's calls of its loggers."""
    calls = (
        node
        for path in sorted((ROOT / part).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS
    )
    found = (inner.value for call in calls for inner in ast.walk(call) if isinstance(inner, ast.Constant))
    return "\n".join(word for word in found if isinstance(word, str))


def test_what_a_runbook_looks_for_in_a_log_is_said_there() -> None:
    looked = 0
    for name in alerts():
        for _, lines in blocks(RUNBOOKS / f"{name}.md"):
            for line in lines:
                command, _, filtered = line.partition(" | grep ")
                if " logs " not in command or not filtered or "component=prometheus" in command:
                    continue
                worker = " -c worker" in command
                component = "gateway" if "Gateway" in name else "operator"
                named = re.search("component=([a-z]+)", command)
                said = logged("worker/ryzanstein_worker" if worker else PARTS[named[1] if named else component])
                for word in shlex.split(filtered):
                    if not word.startswith("-"):
                        assert word in IN_FIELDS or re.search(word, said, re.IGNORECASE), f"{name}: {word}"
                        looked += 1
    assert looked >= 8
