"""The gateway's tests share one fixture: a running gateway with real neighbours."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway_world import World, open_world


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A world with the usual settings."""
    async with open_world(tmp_path, monkeypatch) as one:
        yield one
