"""The troubleshooting page: every message that the operator may give is on it, with something to do."""

from pathlib import Path

import pytest

from ryzanstein_operator.api.conditions import ConditionType
from ryzanstein_operator.api.reasons import EVENTS, MEANING, REASONS, REMEDY, Reason
from ryzanstein_operator.api.troubleshooting import render_troubleshooting
from status_situations import event_examples, examples

PAGE = Path(__file__).parents[3] / "docs" / "troubleshooting.md"
WELL = {
    Reason.ALL_REPLICAS_READY,
    Reason.ENDPOINTS_READY,
    Reason.ROLLOUT_COMPLETE,
    Reason.IN_IMAGE,
    Reason.ON_CLAIM,
    Reason.DOWNLOADED,
    Reason.SCHEDULED,
    Reason.AS_EXPECTED,
    Reason.NOT_CONFIGURED,
    Reason.METRICS_READ,
    Reason.AT_ZERO,
    Reason.WITHIN_BOUNDS,
    Reason.RESCALED,
}


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_meaning_a_remedy_and_a_place(reason: Reason) -> None:
    assert MEANING[reason].endswith(".")
    assert (REMEDY[reason] == "") is (reason in WELL)
    assert any(reason in reasons for reasons in REASONS.values()) or reason in EVENTS


@pytest.mark.parametrize("condition", ConditionType)
def test_a_situation_brings_about_every_reason_of_a_condition_and_no_other(condition: ConditionType) -> None:
    assert {reason for kind, reason in examples() if kind == condition} == set(REASONS[condition])


def test_events_have_their_examples_too() -> None:
    assert set(event_examples()) == set(EVENTS)


def test_the_page_is_what_the_code_makes() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_troubleshooting(examples(), event_examples()), "run make crds"
