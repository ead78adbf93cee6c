"""Which visits an event wakes: its own, and no other service's unless the two claim one model name."""

import pytest

from operator_builders import pod, service
from ryzanstein_operator.api.wire import Manifest
from ryzanstein_operator.cluster.cache import NODES_VISIT, ROUTES_VISIT, Cache, Key
from ryzanstein_operator.handlers.news import Haste, take_in

CHAT, RIVAL = Key("team", "chat"), Key("team", "rival")
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "uid": "u"}}


def at(manifest: Manifest, version: int, **metadata: object) -> Manifest:
    """`manifest` as the API server shows it at a version."""
    head = {"apiVersion": "v1", "kind": "Pod"} | manifest
    return head | {"metadata": manifest["metadata"] | {"resourceVersion": str(version)} | metadata}


def claiming(name: str, model: str) -> Manifest:
    return service(name, model={"uri": "demo://", "name": model})


@pytest.fixture
def cache() -> Cache:
    """Of a service `chat` and a hundred others."""
    held = Cache()
    for number in range(100):
        held.put(at(service(f"other-{number}"), number + 1))
    held.put(at(claiming("chat", "m"), 200))
    return held


def test_a_new_service_wakes_itself_and_the_routes_and_not_a_hundred_others(cache: Cache) -> None:
    woken = take_in(cache, "ADDED", at(service("new"), 300))
    assert set(woken) == {(Key("team", "new"), Haste.AT_ONCE), (ROUTES_VISIT, Haste.PACED)}


def test_whoever_claims_the_same_model_name_is_woken(cache: Cache) -> None:
    assert (CHAT, Haste.AT_ONCE) in take_in(cache, "ADDED", at(claiming("rival", "m"), 300))
    # It gives the name up: the other one may have it now.
    assert (CHAT, Haste.AT_ONCE) in take_in(cache, "MODIFIED", at(claiming("rival", "n"), 301, generation=4))
    assert (CHAT, Haste.AT_ONCE) not in take_in(cache, "MODIFIED", at(claiming("rival", "o"), 302, generation=5))
    assert (RIVAL, Haste.AT_ONCE) in take_in(cache, "MODIFIED", at(claiming("chat", "o"), 303, generation=4))
    assert (RIVAL, Haste.AT_ONCE) in take_in(cache, "DELETED", at(claiming("chat", "o"), 304))


def test_a_change_of_the_spec_is_looked_at_at_once_and_a_pods_start_now_and_then(cache: Cache) -> None:
    assert (CHAT, Haste.AT_ONCE) in take_in(cache, "MODIFIED", at(claiming("chat", "m"), 300, generation=4))
    assert take_in(cache, "ADDED", at(pod(service()), 301)) == [(CHAT, Haste.PACED)]
    assert take_in(cache, "MODIFIED", at(claiming("chat", "m"), 302, generation=4)) == [(CHAT, Haste.PACED)]


def test_our_own_write_that_comes_back_wakes_nobody(cache: Cache) -> None:
    cache.put(at(pod(service()), 300))
    assert not take_in(cache, "MODIFIED", at(pod(service()), 300))


def test_anothers_change_that_our_write_has_overtaken_is_looked_at(cache: Cache) -> None:
    cache.put(at(pod(service()), 302))
    assert take_in(cache, "MODIFIED", at(pod(service()), 301)) == [(CHAT, Haste.PACED)]


def test_what_is_listed_again_is_looked_at_though_it_is_known(cache: Cache) -> None:
    cache.put(at(pod(service()), 300))
    assert take_in(cache, None, at(pod(service()), 300)) == [(CHAT, Haste.PACED)]


def test_a_node_wakes_the_visit_to_the_nodes(cache: Cache) -> None:
    assert take_in(cache, "ADDED", at(NODE, 300)) == [(NODES_VISIT, Haste.AT_ONCE)]
    assert not take_in(cache, "ADDED", at(NODE, 300))
