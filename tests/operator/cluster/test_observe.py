"""The picture of the cluster: newer wins, what was deleted unseen goes with the next list, strangers are looked up."""

from dataclasses import replace

import pytest

from fakeapi import FakeApi, Manifest, refuse
from node_builders import node_manifest
from ryzanstein_operator.cluster import observe
from ryzanstein_operator.cluster.cache import NODES_VISIT, ROUTES_VISIT, Cache, Key, key_of
from ryzanstein_operator.cluster.client import ApiError, Cluster
from ryzanstein_operator.cluster.observe import Observer, selectors
from ryzanstein_operator.cluster.resources import LEASES, NODES, PODS, ROUTES, SERVICES
from ryzanstein_operator.decide.scene import node_of
from ryzanstein_operator.desired import names
from ryzanstein_operator.handlers.news import Haste, take_in
from ryzanstein_operator.settings import Settings
from ryzanstein_worker import contract

CHAT = Key("team", "chat")


def a_pod(name: str, version: int, *, uid: str = "u", service: str = "chat", namespace: str = "team") -> Manifest:
    metadata: Manifest = {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": str(version)}
    metadata["labels"] = {contract.LABEL_SERVICE: service}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


def a_service(name: str, namespace: str = "team") -> Manifest:
    metadata = {"namespace": namespace, "name": name, "uid": f"uid-{name}"}
    return {
        "apiVersion": "ryzanstein.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {"model": {"uri": "demo://"}},
    }


def test_an_older_version_never_replaces_a_newer_one() -> None:
    cache = Cache()
    assert cache.put(a_pod("p", 9))
    assert cache.put(a_pod("p", 10))
    assert not cache.put(a_pod("p", 9))
    assert [pod["metadata"]["resourceVersion"] for pod in cache.of(PODS, CHAT)] == ["10"]


def test_the_deletion_of_an_earlier_object_leaves_its_namesake() -> None:
    cache = Cache()
    cache.put(a_pod("p", 9, uid="new"))
    assert not cache.drop(a_pod("p", 8, uid="old"))
    assert cache.of(PODS, CHAT)
    assert cache.drop(a_pod("p", 9, uid="new"))
    assert not cache.of(PODS, CHAT)


def test_a_label_that_changes_moves_an_object_to_another_visit() -> None:
    cache = Cache()
    cache.put(a_pod("p", 1))
    cache.put(a_pod("p", 2, service="other"))
    assert not cache.of(PODS, CHAT)
    assert len(cache.of(PODS, Key("team", "other"))) == 1


def test_a_list_removes_what_it_lacks_but_not_what_is_newer_or_elsewhere() -> None:
    cache = Cache()
    for pod in (a_pod("gone", 1), a_pod("kept", 2), a_pod("newer", 9), a_pod("far", 1, namespace="other")):
        cache.put(pod)
    cache.replace(PODS, "team", [a_pod("kept", 2)], version=5)
    assert sorted(pod["metadata"]["name"] for pod in cache.all(PODS)) == ["far", "kept", "newer"]


def test_the_services_of_a_model_name_are_found_without_asking_all() -> None:
    cache = Cache()
    for name in ("a", "b", "c"):
        cache.put(a_service(name))
    cache.put(a_service("d") | {"spec": {"model": {"uri": "demo://", "name": "a"}}})
    assert [one["metadata"]["name"] for one in cache.claimants("a")] == ["a", "d"]
    assert not cache.claimants("d")
    cache.drop(cache.claimants("a")[0])
    assert [one["metadata"]["name"] for one in cache.claimants("a")] == ["d"]


def test_names_of_the_past_take_no_memory() -> None:
    cache = Cache()
    for number in range(100):
        cache.put(a_pod(f"p-{number}", 1, service=f"s-{number}"))
        cache.put(a_service(f"s-{number}"))
    for number in range(100):
        cache.drop(a_pod(f"p-{number}", 1))
        cache.drop(a_service(f"s-{number}"))
    assert not cache._by_visit
    assert not cache._by_model


def test_every_object_knows_its_visit() -> None:
    assert key_of(a_service("chat")) == CHAT
    assert key_of(a_pod("p", 1)) == CHAT
    routes = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "release", "name": "ryzanstein-routes"},
    }
    assert key_of(routes) == ROUTES_VISIT
    assert key_of(node_manifest("a")) == NODES_VISIT
    assert (str(CHAT), str(ROUTES_VISIT), str(NODES_VISIT)) == ("team/chat", "routes", "nodes")


def test_only_what_is_ours_is_asked_for() -> None:
    assert selectors(SERVICES) == {}
    assert selectors(PODS) == {"labelSelector": contract.LABEL_SERVICE}
    assert selectors(ROUTES) == {"fieldSelector": "metadata.name=ryzanstein-routes"}
    assert LEASES.release_only


async def test_a_refresh_reads_every_page(
    fake_api: FakeApi, cluster: Cluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "LIST_CHUNK", 2)
    for number in range(5):
        fake_api.put(a_service(f"chat-{number}"))
    fake_api.put(a_service("elsewhere", namespace="other"))
    cache = Cache()
    await Observer(cluster, cache, settings).refresh()
    assert sorted(o["metadata"]["name"] for o in cache.all(SERVICES)) == [f"chat-{n}" for n in range(5)]
    assert all(o["kind"] == "InferenceService" and "apiVersion" in o for o in cache.all(SERVICES))


async def test_what_was_deleted_unseen_goes_with_the_refresh(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    fake_api.put(a_service("chat"))
    cache = Cache()
    observer = Observer(cluster, cache, settings)
    await observer.refresh()
    assert await observer.observe(CHAT, {}) is not None
    fake_api.delete("InferenceService", "team", "chat", unseen=True)
    await observer.refresh()
    assert await observer.observe(CHAT, {}) is None


async def test_a_stranger_that_bears_our_name_is_observed(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    fake_api.put(a_service("chat"))
    fake_api.put({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "team", "name": "chat-workers"}})
    observer = Observer(cluster, Cache(), settings)
    await observer.refresh()
    observed = await observer.observe(CHAT, {})
    assert observed is not None
    assert [child["metadata"]["name"] for child in observed.children] == ["chat-workers"]
    read = [call for call in fake_api.calls if call.path.endswith(("/chat", "/chat-workers"))]
    assert len(read) == 1 + len(names.CHILD_KINDS)  # the service itself, before anything is made for it


async def test_of_a_service_of_groups_other_names_are_looked_up(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    several = {"parallelism": {"tensor": 2, "nodes": 2}, "model": {"uri": "demo://"}}
    fake_api.put(a_service("chat") | {"spec": several})
    observer = Observer(cluster, Cache(), settings)
    await observer.refresh()
    await observer.observe(CHAT, {})
    read = {tuple(call.path.split("/")[-2:]) for call in fake_api.calls if "/team/" in call.path}
    assert ("services", "chat-group") in read
    assert ("deployments", "chat") not in read


def test_an_object_that_has_gone_is_not_brought_back_by_a_late_answer() -> None:
    cache = Cache()
    cache.put(a_pod("a", 1))
    assert cache.renew(a_pod("a", 2))
    assert not cache.renew(a_pod("a", 3, uid="another"))
    cache.drop(a_pod("a", 4))
    assert not cache.renew(a_pod("a", 4))
    assert cache.all(PODS) == ()


def test_an_answer_that_was_under_way_at_a_deletion_brings_nothing_back() -> None:
    cache = Cache()
    cache.drop(a_pod("a", 4))  # the watch tells of the end before the answer to its making is there
    assert not cache.put(a_pod("a", 3))
    assert cache.put(a_pod("a", 5, uid="another"))


async def test_nothing_is_made_for_a_service_whose_end_the_watch_has_not_told(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    fake_api.put(a_service("chat"))
    cache = Cache()
    observer = Observer(cluster, cache, settings)
    await observer.refresh()
    former = fake_api.get(SERVICES.kind, "team", "chat")
    assert former is not None
    fake_api.delete(SERVICES.kind, "team", "chat")
    assert await observer.observe(CHAT, {}) is None
    another = fake_api.put(a_service("chat"))
    assert await observer.observe(CHAT, {}) is None
    # The watch tells of both, late: the route table and those who claim the model name have to hear of it.
    assert (ROUTES_VISIT, Haste.PACED) in take_in(cache, "DELETED", former)
    assert (ROUTES_VISIT, Haste.PACED) in take_in(cache, "ADDED", another)
    assert await observer.observe(CHAT, {}) is not None


async def test_nothing_is_made_by_a_spec_of_the_past(fake_api: FakeApi, cluster: Cluster, settings: Settings) -> None:
    fake_api.put(a_service("chat"))
    observer = Observer(cluster, Cache(), settings)
    await observer.refresh()
    fake_api.put(a_service("chat") | {"spec": {"model": {"uri": "demo://"}, "replicas": 5}})
    assert await observer.observe(CHAT, {}) is None
    await observer.refresh()
    assert await observer.observe(CHAT, {}) is not None


async def test_a_kind_that_may_not_be_listed_is_named(fake_api: FakeApi, cluster: Cluster, settings: Settings) -> None:
    fake_api.faults.append(refuse("GET", "/poddisruptionbudgets", 403, "poddisruptionbudgets is forbidden"))
    with pytest.raises(ApiError, match="poddisruptionbudgets"):
        await Observer(cluster, Cache(), settings).refresh()


async def test_nodes_are_listed_where_they_may_be_and_otherwise_done_without(
    fake_api: FakeApi, cluster: Cluster, settings: Settings
) -> None:
    fake_api.put(node_manifest("a") | {"spec": {}})
    unasked, refused, granted = Cache(), Cache(), Cache()
    await Observer(cluster, unasked, settings).refresh()
    fault = refuse("GET", "/nodes", 403, "nodes is forbidden")
    fake_api.faults.append(fault)
    looking = replace(settings, node_health=True)
    await Observer(cluster, refused, looking).refresh()
    fake_api.faults.remove(fault)
    await Observer(cluster, granted, looking).refresh()
    assert (unasked.knows_nodes, refused.knows_nodes, granted.knows_nodes) == (False, False, True)
    assert [len(cache.all(NODES)) for cache in (unasked, refused, granted)] == [0, 0, 1]
    fake_api.faults.append(refuse("GET", "/nodes", 400, "a fault that is no refusal"))
    with pytest.raises(ApiError, match="no refusal"):
        await Observer(cluster, Cache(), looking).refresh()


def test_of_a_node_only_what_decisions_look_at_is_kept() -> None:
    cache, whole = Cache(), node_manifest("a", ours="NodeUnreachable")
    whole["metadata"] |= {"annotations": {"x": "y" * 1000}, "managedFields": [{}]}
    whole["status"]["images"] = [{"names": ["image"] * 50}]
    cache.put(whole)
    (kept,) = cache.of(NODES, NODES_VISIT)
    assert node_of(kept) == node_of(whole)
    assert "images" not in kept["status"]
    assert set(kept["metadata"]) == {"name", "uid", "resourceVersion"}


async def test_a_lookup_that_fails_is_no_absence(fake_api: FakeApi, cluster: Cluster, settings: Settings) -> None:
    fake_api.put(a_service("chat"))
    observer = Observer(cluster, Cache(), settings)
    await observer.refresh()
    fake_api.faults.append(refuse("GET", "/deployments/chat", 403, "forbidden"))
    with pytest.raises(ApiError, match="forbidden"):
        await observer.observe(CHAT, {})
