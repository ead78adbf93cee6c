"""Fixtures of the plugin's tests: a cluster to look at, and the plugin run in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kubectl_world import Plugin, World, world
from ryzanstein_kubectl.cluster import pages
from ryzanstein_kubectl.commands import common, drain


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


@pytest.fixture
def plugin(cluster: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Plugin:
    """With shorter waits between looks than at a terminal, and patience with pages: they share a busy machine."""
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(common, "MIN_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(drain, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(pages, "PROXY_SECONDS", 20.0)
    monkeypatch.setattr(pages, "FORWARD_SECONDS", 20.0)
    return Plugin(cluster, capsys)
