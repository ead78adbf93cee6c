"""The queries as text: what they select, and that no name of a user's breaks out of its quotes."""

from typing import get_args

import promql_parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ryzanstein_operator.api.autoscaling import Target
from ryzanstein_operator.decide.queries import Place, activity, query_of

PLACE = Place("team", "chat", "org/chat", "release")
BUILT_IN = [name for name in get_args(Target.model_fields["metric"].annotation) if name != "Query"]
WORKER = 'job="ryzanstein-worker",namespace="team",inference_service="chat"'


def target(metric: str, **more: str) -> Target:
    return Target.model_validate({"metric": metric, "value": 5, **more})


@pytest.mark.parametrize("metric", BUILT_IN)
def test_each_built_in_target_asks_for_the_service_alone(metric: str) -> None:
    text = query_of(target(metric), PLACE)
    promql_parser.parse(text)
    assert f"{{{WORKER}}}[" in text
    assert "label_replace(count(last_over_time(" in text or "and last_over_time(" in text
    assert "[30s]" in text, "a dead scrape would count for five minutes"


def test_a_query_of_the_users_is_asked_as_it_stands() -> None:
    assert query_of(target("Query", query="sum(rate(x[5m]))"), PLACE) == "sum(rate(x[5m]))"


def test_activity_is_asked_of_replicas_and_gateways() -> None:
    text = activity(PLACE, 600)
    promql_parser.parse(text)
    assert "[600s]" in text
    assert 'ryzanstein_gateway_queue_length{job="ryzanstein-gateway",namespace="release",model="org/chat"}' in text


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(max_size=12), st.sampled_from(BUILT_IN))
def test_no_name_breaks_out_of_its_quotes(name: str, metric: str) -> None:
    place = Place("team", "chat", f'{name}"}} or vector(1) # \\', "release")
    text = query_of(target(metric), place)
    plain = query_of(target(metric), Place("team", "chat", "plain", "release"))
    assert _shape(text) == _shape(plain)


def _shape(text: str) -> str:
    """The tree of a query, without the values of its labels."""
    tree = promql_parser.parse(text).prettify()
    kept, inside, escaped = [], False, False
    for letter in tree:
        if inside and not escaped and letter == "\\":
            escaped = True
            continue
        if letter == '"' and not escaped:
            inside = not inside
        elif not inside:
            kept.append(letter)
        escaped = False
    return "".join("".join(kept).split())
