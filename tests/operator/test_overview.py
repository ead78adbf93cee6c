"""The overview says what is known of each service, in the form of its docstring, and nothing that is secret."""

import dataclasses
import json
from datetime import timedelta
from typing import Any

import pytest

from operator_builders import NOW, broken_pod, container, pod, ready_pod, service, settled, status_in, unscheduled_pod
from ryzanstein_operator import overview
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.recent import MOST_EVENTS, Recent
from ryzanstein_operator.decide.plan import EmitEvent
from ryzanstein_operator.decide.reconcile import reconcile
from ryzanstein_operator.overview import MOST_PODS, OperatorRow, Picture, encode
from ryzanstein_operator.settings import Settings

OPERATOR = OperatorRow("0.1.0", "operator-0", leader=True, time="2026-01-02T03:04:05Z")


def shown(*pictures: Picture, total: int | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(encode(OPERATOR, pictures, total or len(pictures), NOW))
    return answer


def with_status(live: Manifest, settings: Settings, *pods: Manifest) -> Manifest:
    return {**live, "status": status_in(reconcile(settled(live, *pods), settings, NOW))}


def test_a_service_is_shown_with_its_status_its_pods_and_its_events(settings: Settings) -> None:
    live = service(
        model={"uri": "demo://", "name": "demo"},
        replicas=2,
        access={"keySets": ["team-b", "team-a"]},
    )
    pods = (ready_pod(live), unscheduled_pod(live, "0/3 nodes are available", "chat-b"))
    live = with_status(live, settings, *pods)
    recent = Recent(lambda: NOW)
    recent.note("uid-team-chat", EmitEvent("Warning", "Unschedulable", "no node"))
    (row,) = shown(Picture(live, pods, recent.of("uid-team-chat")))["services"]
    assert (row["namespace"], row["name"], row["model"], row["uri"]) == ("team", "chat", "demo", "demo://")
    assert row["key_sets"] == ["team-a", "team-b"]
    assert (row["generation"], row["observed_generation"], row["replicas"], row["ready"]) == (3, 3, 2, 1)
    assert row["autoscaling"] is None
    ready = next(one for one in row["conditions"] if one["type"] == "Ready")
    assert (ready["status"], ready["since"]) == ("False", "2026-01-02T03:04:05Z")
    assert "1 of 2 replicas are ready" in ready["message"]
    assert [(one["name"], one["node"], one["ready"]) for one in row["pods"]] == [
        ("chat-a", "node-1", True),
        ("chat-b", "", False),
    ]
    assert [one["step"] for one in row["pods"]] == ["", "is broken: Unschedulable: 0/3 nodes are available"]
    words = {"type": "Warning", "reason": "Unschedulable", "message": "no node", "count": 1}
    assert row["events"] == [words | {"time": "2026-01-02T03:04:05Z"}]


def test_what_a_pod_does_or_suffers_from_is_told_and_also_that_it_goes() -> None:
    live = service()
    ended = {"exitCode": 78, "message": "model.safetensors is cut off"}
    broken = broken_pod(live, container(waiting={"reason": "CrashLoopBackOff"}, ended=ended), "chat-a")
    broken["status"]["containerStatuses"][0]["restartCount"] = 3
    broken["status"]["podIP"] = "10.0.0.7"
    going = ready_pod(live, "chat-b")
    going["metadata"]["deletionTimestamp"] = "2026-01-02T03:05:00Z"
    (row,) = shown(Picture(live, (going, broken), ()))["services"]
    first, second = row["pods"]
    assert (first["restarts"], first["address"]) == (3, "10.0.0.7")
    assert first["step"] == "is broken: ModelUnusable: model.safetensors is cut off"
    assert (second["ready"], second["step"]) == (False, "is on its way out until 2026-01-02T03:05:00Z")


def test_autoscaling_is_shown_with_its_bounds_and_what_decided() -> None:
    live = service(autoscaling={"maxReplicas": 4, "targets": [{"metric": "WaitingRequests", "value": 5}]})
    told = {"metric": "WaitingRequests", "value": "12", "target": "5", "message": "why", "lastScaleTime": "t"}
    (row,) = shown(Picture({**live, "status": {"desiredReplicas": 3, "autoscaling": told}}, (), ()))["services"]
    expected = {"metric": "WaitingRequests", "value": "12", "target": "5", "message": "why", "last_scale_time": "t"}
    assert row["autoscaling"] == expected | {"min_replicas": 1, "max_replicas": 4}
    assert row["desired"] == 3


@pytest.mark.parametrize("spec", [{}, {"model": "x"}, {"model": {}, "access": [], "autoscaling": 3}])
def test_a_spec_that_cannot_be_read_hides_no_other_service(spec: Any) -> None:
    rows = shown(Picture({**service(), "spec": spec}, (), ()), Picture(service("other"), (), ()))["services"]
    assert [row["name"] for row in rows] == ["chat", "other"]
    assert rows[0]["key_sets"] == ["default"]


def test_an_answer_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    live = service()
    many = tuple(pod(live, f"chat-{number:03}") for number in range(MOST_PODS + 6))
    whole = shown(Picture(live, many, ()))
    assert (whole["truncated"], whole["services_total"]) == (False, 1)
    assert (whole["services"][0]["pods_total"], len(whole["services"][0]["pods"])) == (MOST_PODS + 6, MOST_PODS)
    pictures = [Picture(service(f"s{number}"), (), ()) for number in range(20)]
    monkeypatch.setattr(overview, "MOST_SERVICES", 5)
    cut = shown(*pictures)
    assert (len(cut["services"]), cut["truncated"], cut["services_total"]) == (5, True, 20)
    monkeypatch.setattr(overview, "MAX_BYTES", 1500)
    assert len(encode(OPERATOR, pictures, 20, NOW)) < 1500 + 300
    assert 0 < len(shown(*pictures)["services"]) < 5


def test_nothing_that_a_pod_or_a_service_keeps_secret_is_shown() -> None:
    live = service()
    live["metadata"]["annotations"] = {"note": "hunter2"}
    secret = pod(live)
    secret["spec"]["containers"][0]["env"] = [{"name": "HF_TOKEN", "value": "hunter2"}]
    assert b"hunter2" not in encode(OPERATOR, [Picture(live, (secret,), ())], 1, NOW)


def test_the_docstring_names_every_field() -> None:
    rows = [kind for kind in vars(overview).values() if isinstance(kind, type) and kind.__name__.endswith("Row")]
    assert len(rows) == 8
    missing = [
        f"{row.__name__}.{field.name}"
        for row in rows
        for field in dataclasses.fields(row)
        if f'"{field.name}"' not in (overview.__doc__ or "")
    ]
    assert missing == []


def test_of_each_service_the_last_events_are_kept_and_repeated_ones_are_counted() -> None:
    now = [NOW]
    recent = Recent(lambda: now[0])
    first = EmitEvent("Normal", "RolledOut", "done")
    for number in range(MOST_EVENTS):
        recent.note("a", EmitEvent("Warning", "Broken", f"cause {number}"))
    recent.note("b", first)
    now[0] += timedelta(seconds=5)
    recent.note("b", EmitEvent("Normal", "Other", "x"))
    recent.note("b", first)
    recent.note("a", first)
    told = [(event.reason, event.count, event.time[-3:]) for event in recent.of("b")]
    assert told == [("RolledOut", 2, "10Z"), ("Other", 1, "10Z")]
    assert len(recent.of("a")) == MOST_EVENTS
    assert recent.of("a")[0].reason == "RolledOut"
    assert "cause 0" not in [event.message for event in recent.of("a")]
    assert recent.of("c") == ()


def test_events_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ryzanstein_operator.cluster.recent.MOST_SERVICES", 3)
    recent = Recent(lambda: NOW)
    for number in range(10):
        recent.note(str(number), EmitEvent("Normal", "X", "y" * 5000))
    assert [bool(recent.of(str(number))) for number in range(10)] == [False] * 7 + [True] * 3
    assert len(recent.of("9")[0].message) == 512
