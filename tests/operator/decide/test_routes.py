"""The gateway's route table: every service has its row, and of two with one model name the older."""

import json
from typing import Any

import pytest

from operator_builders import SETTINGS, service
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.decide.plan import Apply, Plan
from ryzanstein_operator.decide.routes import reconcile_routes
from ryzanstein_operator.desired import route_table

OLD, YOUNG = "2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"


def applied(*services: Manifest, live: Manifest | None = None) -> Manifest:
    (action,) = reconcile_routes(services, live, SETTINGS).actions
    assert isinstance(action, Apply)
    return action.manifest


def rows(manifest: Manifest) -> list[dict[str, Any]]:
    table = json.loads(manifest["data"]["routes.json"])
    return list(table["models"])


def owners(manifest: Manifest) -> dict[str, str]:
    return {row["model"]: f"{row['namespace']}/{row['service']}" for row in rows(manifest)}


def standing(*services: Manifest) -> Manifest:
    live = applied(*services)
    live["metadata"]["uid"] = "uid-routes"
    return live


def test_without_a_service_the_table_is_there_and_empty() -> None:
    (action,) = reconcile_routes((), None, SETTINGS).actions
    assert isinstance(action, Apply)
    assert rows(action.manifest) == []
    assert str(action) == "create ConfigMap release/ryzanstein-routes: 0 models: none"


def test_a_table_that_stands_is_not_written_again() -> None:
    services = (service("a"), service("b"))
    assert reconcile_routes(services[::-1], standing(*services), SETTINGS) == Plan()


def test_another_policy_is_one_write_of_the_table_and_no_other() -> None:
    changed = service("a", routing={"policy": "RoundRobin"})
    (action,) = reconcile_routes((changed,), standing(service("a")), SETTINGS).actions
    assert isinstance(action, Apply)
    assert [row["policy"] for row in rows(action.manifest)] == ["RoundRobin"]


def test_a_new_service_is_added_to_the_live_table_by_uid() -> None:
    (action,) = reconcile_routes((service("a"), service("b")), standing(service("a")), SETTINGS).actions
    assert isinstance(action, Apply)
    assert (action.uid, action.why) == ("uid-routes", "2 models: a, b")


def test_the_older_of_two_keeps_the_name() -> None:
    old, young = service("z", created=OLD, model={"uri": "demo://", "name": "m"}), service("m", created=YOUNG)
    assert owners(applied(young, old)) == {"m": "team/z-workers"}


def test_of_one_age_the_first_by_namespace_and_name_keeps_it() -> None:
    found = applied(service("m", namespace="b"), service("m", namespace="a"))
    assert owners(found) == {"m": "a/m-workers"}


def test_the_name_goes_over_when_its_owner_is_being_deleted() -> None:
    old, young = service("m", namespace="b", created=OLD), service("m", namespace="c", created=YOUNG)
    old["metadata"]["deletionTimestamp"] = "2026-02-01T00:00:00Z"
    assert owners(applied(old, young)) == {"m": "c/m-workers"}


def test_a_service_whose_spec_cannot_be_run_keeps_its_row_and_its_name() -> None:
    live = standing(service("m", created=OLD))
    broken = service("m", created=OLD, unknown=1)
    rival = service("m", namespace="a", created=YOUNG)
    assert reconcile_routes((broken, rival), live, SETTINGS) == Plan()


def test_a_large_table_is_written_once_and_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_table, "PLAIN_BYTES", 0)
    live = standing(service("m", created=OLD))
    assert "data" not in live
    assert reconcile_routes((service("m", created=OLD),), live, SETTINGS) == Plan()
    broken = service("m", created=OLD, unknown=1)
    assert reconcile_routes((broken,), live, SETTINGS) == Plan(), "its row is kept"
    for packed in ("no base64!", "bm8gZ3ppcA==", "H4sI"):
        damaged = {**live, "binaryData": {"routes.json.gz": packed}}
        assert route_table.unpack(applied(broken, live=damaged)) == []


def test_the_log_names_a_few_models_of_many() -> None:
    plan = reconcile_routes([service(f"s-{number:02}") for number in range(30)], None, SETTINGS)
    assert plan.details[0].endswith("30 models: s-00, s-01, s-02, s-03, s-04, s-05, s-06, s-07, s-08, s-09 and 20 more")


def test_one_that_never_had_a_row_gets_none() -> None:
    assert rows(applied(service("m", unknown=1))) == []


def test_a_table_that_cannot_be_read_is_written_anew() -> None:
    live = standing(service("a"))
    for text in ("not json", "[]", '{"models": 5}'):
        live["data"]["routes.json"] = text
        assert owners(applied(service("a"), live=live)) == {"a": "team/a-workers"}


def test_a_hand_edit_of_the_table_is_put_back() -> None:
    live = standing(service("a"))
    live["data"]["routes.json"] = live["data"]["routes.json"].replace("a-workers", "evil")
    assert owners(applied(service("a"), live=live)) == {"a": "team/a-workers"}
