"""Fixtures of the operator's tests: a fake API server for fast ones, a client to it, settings."""

from collections.abc import AsyncIterator

import pytest

from fakeapi import FakeApi
from fakeapi import fake_api as fake_api
from ryzanstein_operator.cluster.client import Cluster
from ryzanstein_operator.settings import Settings


@pytest.fixture
def settings() -> Settings:
    return Settings(
        namespace="release",
        worker_image="ryzanstein/worker:dev",
        watch_namespaces=("team",),
        gateway_url="http://gateway",
        pod_name="operator-0",
    )


@pytest.fixture
async def cluster(fake_api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    """A client to the fake API server, with the credentials of a kubeconfig."""
    monkeypatch.setenv("KUBECONFIG", str(fake_api.kubeconfig))
    connected = await Cluster.connect()
    yield connected
    await connected.close()
