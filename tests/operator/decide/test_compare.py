"""A write happens when, and only when, applying would change something."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ryzanstein_operator.decide.compare import covers, differences

SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab1", max_size=3)
NAMES = st.text("abcdefg", min_size=1, max_size=4)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("live", "desired"),
    [
        ({"a": 1, "added": 2}, {"a": 1}),
        ({}, {"egress": []}),
        ({}, {"matchLabels": {}, "text": "", "nothing": None}),
        ({"requests": {"cpu": "500m", "memory": "1Gi"}}, {"requests": {"cpu": "0.5", "memory": "1024Mi"}}),
        ({"limits": {"nvidia.com/gpu": "2"}}, {"limits": {"nvidia.com/gpu": 2}}),
        ({"emptyDir": {"sizeLimit": "1Gi"}}, {"emptyDir": {"sizeLimit": "1024Mi"}}),
        (
            {"env": [{"name": "INJECTED", "value": "x"}, {"name": "HOME", "value": "/tmp"}]},
            {"env": [{"name": "HOME", "value": "/tmp"}]},
        ),
        (
            {"volumeMounts": [{"mountPath": "/b", "name": "b"}, {"mountPath": "/a", "name": "a", "readOnly": True}]},
            {"volumeMounts": [{"mountPath": "/a", "name": "a"}]},
        ),
        ({"ports": [{"name": "api", "port": 80, "protocol": "TCP"}]}, {"ports": [{"name": "api", "port": 80}]}),
    ],
)
def test_defaults_additions_and_other_spellings_are_no_difference(live: Any, desired: Any) -> None:
    assert covers(live, desired)


@pytest.mark.parametrize(
    ("live", "desired", "path"),
    [
        ({"spec": {"replicas": 5}}, {"spec": {"replicas": 2}}, "spec.replicas"),
        ({"spec": {}}, {"spec": {"replicas": 0}}, "spec.replicas"),
        ({}, {"automount": False}, "automount"),
        ({"a": True}, {"a": 1}, "a"),
        ({"a": 0}, {"a": False}, "a"),
        ({"args": ["serve", "--x"]}, {"args": ["serve"]}, "args"),
        ({"args": ["serve", "--x"]}, {"args": ["serve", "--y"]}, "args[1]"),
        ({"egress": [{}]}, {"egress": []}, "egress"),
        ({"ports": [{"port": 80}, {"port": 22}]}, {"ports": [{"port": 80}]}, "ports"),
        ({"drop": ["ALL"]}, {"drop": []}, "drop"),
        ({"requests": {"cpu": "1"}}, {"requests": {"cpu": "2"}}, "requests.cpu"),
        ({"version": "1000m"}, {"version": "1"}, "version"),
        (
            {"containers": [{"name": "w", "image": "b"}]},
            {"containers": [{"name": "w", "image": "a"}]},
            "containers[w].image",
        ),
        ({"containers": []}, {"containers": [{"name": "w"}]}, "containers[w]"),
        ({"data": "text"}, {"data": {"a": 1}}, "data"),
        ({"data": {"a": 1}}, {"data": ["a"]}, "data"),
    ],
)
def test_a_difference_is_found_and_its_place_named(live: Any, desired: Any, path: str) -> None:
    assert path in list(differences(live, desired))


@given(JSON)
def test_everything_covers_itself(value: Any) -> None:
    assert covers(value, copy.deepcopy(value))


@given(st.dictionaries(NAMES, JSON, max_size=4), st.dictionaries(NAMES, JSON, max_size=4))
def test_what_others_add_beside_is_no_difference(desired: dict[str, Any], added: dict[str, Any]) -> None:
    assert covers({**added, **desired}, desired)


@given(st.dictionaries(NAMES, JSON, min_size=1, max_size=4), st.data())
def test_a_changed_scalar_anywhere_is_seen(desired: dict[str, Any], data: st.DataObject) -> None:
    live = copy.deepcopy(desired)
    key = data.draw(st.sampled_from(sorted(live)))
    live[key] = "changed by hand"
    assert not covers(live, {**desired, key: desired[key] or "wanted"})


@given(JSON, JSON)
def test_comparing_changes_neither_side(live: Any, desired: Any) -> None:
    before = copy.deepcopy((live, desired))
    list(differences(live, desired))
    assert (live, desired) == before
