"""What the page says where something is amiss with the key, the gateway or a clock, in a real browser."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from browser import Page, browser_page
from gateway_world import KEY
from page_world import PageWorld, overview, page_world, picture

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

HOUR_AHEAD = "void (Date.now = ((now) => () => now() + 3600000)(Date.now))"


@pytest.fixture
async def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PageWorld]:
    """A gateway and an operator."""
    async with page_world(tmp_path, monkeypatch) as one:
        yield one


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    """A browser."""
    async with browser_page(tmp_path) as one:
        yield one


async def give_key(page: Page, shown: PageWorld, key: str) -> None:
    await page.open(shown.url)
    await page.until("document.activeElement?.id", "key")
    await page.type(key)
    await page.press("Enter")


async def test_a_key_that_no_header_can_hold_is_refused_and_another_can_be_given(shown: PageWorld, page: Page) -> None:
    await shown.world.route("chat")
    await give_key(page, shown, KEY + "\u200b…")  # as it comes from a page that was copied
    await page.until_text("This is no key", "[role=alert]")
    assert await page.look("sessionStorage.length") == 0, "it is gone by itself"
    await page.until("document.activeElement?.id", "key")
    await page.type(KEY)
    await page.press("Enter")
    await page.until_text("Live", "#live")


async def test_a_gateway_that_fails_is_not_said_to_be_silent_and_another_clock_changes_no_age(
    shown: PageWorld, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(key_sets: Any) -> bytes:
        raise RuntimeError("as a fault of the gateway's")

    await shown.world.route("chat")
    await page.open(shown.url)
    await page.until("document.activeElement?.id", "key")
    await page.look(HOUR_AHEAD)
    await page.type(KEY)
    await page.press("Enter")
    await page.until_text("Live", "#live")
    monkeypatch.setattr(shown.world.gateway._page_state, "answer", fail)
    await page.until_text("The gateway answers with status 500, last heard", "#live")
    said = await page.text("#live")
    assert "h ago" not in said, said


async def test_a_service_at_zero_for_which_a_request_waits_wakes(shown: PageWorld, page: Page) -> None:
    await shown.world.route("chat", queueTimeoutSeconds=120)
    await shown.world.endpoints("chat", [])
    shown.ear.overview = overview(picture("chat", desiredReplicas=0, replicas=0, readyReplicas=0))
    await give_key(page, shown, KEY)
    await page.until_text("At zero", ".badge")
    waits = asyncio.create_task(shown.world.ask(model="chat", messages=[]))
    try:
        await page.until_text("Waking", ".badge")
    finally:
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
