"""kopf is a watcher and nothing more: every timeout set, no finalizer, no annotation, endless backoff."""

import asyncio
import itertools
from typing import Any

import kopf
import pytest

from ryzanstein_operator.cluster.client import Cluster
from ryzanstein_operator.cluster.observe import LIST_CHUNK
from ryzanstein_operator.handlers import watch
from ryzanstein_operator.handlers.watch import Backoffs, kopf_settings, scopes
from ryzanstein_operator.settings import Settings


def test_kopf_has_every_timeout_and_writes_nothing(settings: Settings) -> None:
    result = kopf_settings(settings)
    times = (result.watching.server_timeout, result.watching.client_timeout, result.watching.inactivity_timeout)
    assert None not in (*times, result.networking.connect_timeout, result.networking.request_timeout)
    assert result.scanning.disabled
    assert result.peering.standalone
    assert not result.posting.enabled


def test_kopf_holds_no_copy_of_an_object_and_no_whole_list(settings: Settings) -> None:
    result = kopf_settings(settings)
    body = kopf.Body({"metadata": {"name": "chat"}, "spec": {"large": "thing"}})
    storage = result.persistence.diffbase_storage
    assert storage.build(body=body, extra_fields=[("spec",)]) == {}
    assert storage.fetch(body=body) is None
    patch = kopf.Patch()
    storage.store(body=body, patch=patch, essence=kopf.BodyEssence())
    assert not patch
    assert result.watching.chunk_size == LIST_CHUNK
    assert result.queueing.idle_timeout < 1


def test_an_api_server_that_is_down_for_hours_ends_nothing() -> None:
    waits = list(itertools.islice(Backoffs(), 10_000))
    assert len(waits) == 10_000
    assert max(waits) <= 5


def test_rights_are_asked_for_only_where_they_are_needed(settings: Settings) -> None:
    services, release = scopes(settings)
    assert services.namespaces == ("team",)
    assert release.namespaces == ("release",)
    assert {resource.plural for resource in release.resources} == {"leases", "configmaps"}
    everywhere, _ = scopes(Settings(namespace="release", worker_image="w", watch_namespaces=()))
    assert everywhere.namespaces == ()


async def test_no_handler_that_would_write_is_registered(settings: Settings, cluster: Cluster) -> None:
    from ryzanstein_operator.cluster.heartbeat import Freshness
    from ryzanstein_operator.handlers.loop import Loop
    from ryzanstein_operator.handlers.watch import registry

    loop: Loop = object.__new__(Loop)  # only registered with, never called
    for scope in scopes(settings):
        handlers = registry(scope, cluster, loop, Freshness())
        assert len(handlers._watching.get_all_handlers()) == len(scope.resources)
        assert not handlers._changing.get_all_handlers()
        assert not handlers._spawning.get_all_handlers()
        assert not handlers._indexing.get_all_handlers()


async def test_a_watch_that_failed_ends_the_operator_though_kopf_waits_for_its_other_tasks(
    settings: Settings, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ryzanstein_operator.cluster.heartbeat import Freshness
    from ryzanstein_operator.handlers.loop import Loop

    async def fails() -> None:
        raise ValueError("half a line")

    async def spawn(**_: Any) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(fails()), asyncio.create_task(asyncio.sleep(60))]

    async def wait_for_all(tasks: list[asyncio.Task[None]], **_: Any) -> None:
        await asyncio.wait(tasks)

    monkeypatch.setattr(kopf, "spawn_tasks", spawn)
    monkeypatch.setattr(kopf, "run_tasks", wait_for_all)
    monkeypatch.setattr(watch, "END_SECONDS", 0.1)
    loop: Loop = object.__new__(Loop)  # only registered with, never called
    stop = asyncio.Event()
    async with asyncio.timeout(30):
        with pytest.raises(ValueError, match="half a line"):
            await watch.watch(scopes(settings)[0], cluster, settings, loop, Freshness(), stop)
