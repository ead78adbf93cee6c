"""The page as people see it: in a real browser, before a real gateway, with the operator's own words."""

import asyncio
import itertools
import json
import os
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from browser import WAIT_SECONDS, Page, browser_page
from gateway_world import KEY, until, write_key
from page_world import PageWorld, condition, overview, page_world, picture, pod
from replica import Answer, Replica
from ryzanstein_operator.overview import EventRow

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

CARD = "article.card"
PICTURES = os.environ.get("RYZANSTEIN_PICTURES", "")
"""A folder: then the test of many situations leaves its pictures there (docs/images)."""


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


async def give_key(page: Page, shown: PageWorld, key: str = KEY) -> None:
    """Open the page and give it a key by the keyboard alone."""
    await page.open(shown.url)
    await page.until("document.activeElement?.id", "key")
    await page.type(key)
    await page.press("Enter")


async def served(shown: PageWorld, name: str = "chat", *, replicas: int = 1, **row: Any) -> list[Replica]:
    """A model with sound replicas that have health pages."""
    ones = [await shown.world.add_replica() for _ in range(replicas)]
    for one in ones:
        one.health |= {"running": 0, "waiting": 0, "kv_cache_usage": 0.0, "max_num_seqs": 64}
        await one.show_health(shown.world.health_port)
    await shown.world.route(name, **row)
    await shown.world.endpoints(name, ones)
    return ones


async def test_it_asks_for_a_key_refuses_a_wrong_one_and_shows_services_for_a_right_one(
    shown: PageWorld, page: Page
) -> None:
    (one,) = await served(shown)
    shown.ear.overview = overview(
        picture("chat", desiredReplicas=1, replicas=1, readyReplicas=1, pods=[pod("pod-127.0.0.2", one.host, "node-7")])
    )
    await give_key(page, shown, "sk-of-nobody")
    await page.until_text("This key is not valid here.", "[role=alert]")
    assert await page.look("document.activeElement.id") == "key", "the next may be typed at once"
    assert await page.look("document.querySelectorAll('article').length") == 0
    await page.type(KEY)
    await page.press("Enter")
    await page.until_text("Serving", ".badge")
    assert "models / chat" in (await page.text("h2.named, article h2"))
    await page.until_text("operator 0.1.0", "#who")  # an operator that is slow to answer is shown a look later
    await page.until_text("1 of 1", ".replicas .value")
    await page.until("document.getElementById('live').textContent", "Live")
    await page.look("document.querySelector('summary').focus()")
    await page.press("Enter")
    await page.until("document.querySelector('details').open")
    await page.until_text("node-7", CARD)
    for words in ("pod-127.0.0.2", "Sound", "Conditions", "ReplicasReady", "2 replicas answer."):
        assert words in await page.text(CARD)
    kept = await page.look("JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie, location.href])")
    assert json.loads(kept)[0] == {"ryzanstein-key": KEY}, "in this tab alone"
    assert KEY not in json.dumps(json.loads(kept)[1:])
    await page.look("document.getElementById('forget').click()")
    await page.until("document.getElementById('ask').hidden", False)
    assert await page.look("document.querySelectorAll('article').length + sessionStorage.length") == 0
    assert all(url.startswith(f"http://127.0.0.1:{shown.world.gateway.port}/") for url in page.requests), page.requests
    assert [line for line in page.console if "401" not in line] == [], "nothing broke its policy"


async def test_it_follows_the_load_without_being_asked(shown: PageWorld, page: Page) -> None:
    (one,) = await served(shown)
    shown.ear.overview = overview(picture("chat", desiredReplicas=1, replicas=1, readyReplicas=1))
    await give_key(page, shown)
    await page.until("document.querySelector('.flight .value')?.textContent", "0")
    one.step = asyncio.Semaphore(0)
    held = [asyncio.create_task(shown.world.ask(model="chat", messages=[])) for _ in range(7)]
    await page.until("document.querySelector('.flight .value').textContent", "7")
    assert "at most 7" in await page.look("document.querySelector('.flight svg').getAttribute('aria-label')")
    for _ in held:
        one.step.release()
    assert {reply.status_code for reply in await asyncio.gather(*held)} == {200}
    await page.until("document.querySelector('.flight .value').textContent", "0")
    await page.until("document.querySelector('.rate .value').textContent !== '0'")
    await page.until("/ (ms|s)$/.test(document.querySelector('.p95 .value').textContent)")
    await shown.world.endpoints("chat", [])
    shown.ear.overview = overview(
        picture("chat", condition("Serving", "False", "NoReplicas", "Nobody can answer."), desiredReplicas=1)
    )
    await page.until_text("Not serving: NoReplicas", ".badge")
    await page.until_text("Nobody can answer.", ".words")


async def test_a_key_sees_only_its_services(shown: PageWorld, page: Page) -> None:
    write_key(shown.world.keys, "team-b", "key", "sk-team-b")
    await served(shown, "mine")
    await served(shown, "theirs", key_sets=["team-b"])
    await until(lambda: len(shown.world.gateway._keys.digests) == 2, "both keys are known")
    await give_key(page, shown, "sk-team-b")
    await page.until_text("theirs", CARD)
    assert await page.look("document.querySelectorAll('article').length") == 1
    assert "mine" not in await page.look("document.documentElement.outerHTML")


HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>"\'`${window.hit=1}</td><b id=bold>bold</b>'


async def test_hostile_words_are_words(shown: PageWorld, page: Page) -> None:
    await served(shown, "chat")
    shown.world.models["chat"]["model"] = HOSTILE
    await shown.world.put_routes(json.dumps({"version": 1, "models": list(shown.world.models.values())}))
    events = [EventRow("<b>soon</b>", HOSTILE, HOSTILE, HOSTILE, 3)]
    bad = condition("Degraded", "True", HOSTILE, HOSTILE)
    scaling = {"autoscaling": {"metric": HOSTILE, "value": HOSTILE, "target": HOSTILE, "message": HOSTILE}}
    shown.ear.overview = overview(
        picture(
            "chat", condition("Serving", "True"), bad, events=events, desiredReplicas=1, readyReplicas=1,
            spec={"autoscaling": {"maxReplicas": 3}, "model": {"uri": HOSTILE}}, **scaling,
        )
    )  # fmt: skip
    await give_key(page, shown)
    await page.until_text("Degraded", ".badge")
    await page.look("document.querySelector('summary').click()")
    await page.until_text("Events", CARD)
    await page.until_text(HOSTILE, ".models")
    for place in (".words", ".badge", ".scaling", ".detail > :last-child"):
        assert "<img src=x" in await page.text(place), place
    await asyncio.sleep(0.3)
    assert await page.look("window.hit === undefined && !document.querySelector('article img, article script, #bold')")
    assert [line for line in page.console if "401" not in line] == []


async def test_without_the_operator_it_shows_what_the_gateway_sees_and_says_so(shown: PageWorld, page: Page) -> None:
    shown.ear.status = 503
    await served(shown)
    await give_key(page, shown)
    await page.until_text("No operator answers.", "#notice")
    await page.until_text("Serving", ".badge")
    shown.ear.status = 200
    shown.ear.overview = overview(picture("chat", desiredReplicas=3, replicas=3, readyReplicas=1))
    await page.until("document.getElementById('notice').hidden", True)
    await page.until_text("1 of 3", ".replicas .value")
    await page.until_text("Progressing", ".badge")


async def offline(page: Page, wanted: bool) -> None:
    rates = {"downloadThroughput": -1, "uploadThroughput": -1, "latency": 0}
    await page.call("Network.emulateNetworkConditions", offline=wanted, **rates)


async def test_a_gateway_that_is_away_is_said_and_found_again(shown: PageWorld, page: Page) -> None:
    await served(shown)
    await give_key(page, shown)
    await page.until_text("Live", "#live")
    await offline(page, True)
    await page.until_text("The gateway does not answer", "#live")
    assert await page.look("document.querySelectorAll('article').length") == 1, "what was known stays to be read"
    await offline(page, False)
    await page.until("document.getElementById('live').textContent", "Live")


async def test_what_is_open_and_selected_stays_so_and_a_filter_finds(shown: PageWorld, page: Page) -> None:
    for name in ("chat", "code"):
        await served(shown, name)
    await give_key(page, shown)
    await page.until("document.querySelectorAll('article').length", 2)
    await page.look("document.querySelectorAll('summary')[1].click(); document.querySelectorAll('summary')[1].focus()")
    before = shown.ear.asked
    await until(lambda: shown.ear.asked >= before + 2, "it has been drawn anew", WAIT_SECONDS)
    assert await page.look("document.querySelectorAll('details')[1].open")
    assert await page.look("document.activeElement === document.querySelectorAll('summary')[1]")
    await page.look("document.getElementById('filter').focus()")
    await page.type("cod")
    await page.until_text("1 of 2", "#shown")
    assert await page.look("[...document.querySelectorAll('article')].map(a => a.hidden).join()") == "true,false"


CONTRAST = """
(() => {
  const linear = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const back = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const low = [];
  for (const node of document.querySelectorAll('body *')) {
    const speaks = [...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim());
    if (!speaks || !node.checkVisibility()) continue;
    const [one, other] = [light(getComputedStyle(node).color), light(back(node))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) low.push(`${node.tagName}.${node.className} ${node.textContent.slice(0, 20)} ${ratio.toFixed(2)}`);
  }
  return low.join('; ');
})()
"""
"""What is harder to read than WCAG 2's level AA allows (4.5 to 1)."""


def many() -> bytes:
    """Services in every situation."""

    def said(kind: str, reason: str, message: str, seconds: float, count: int = 1) -> EventRow:
        when = datetime.fromtimestamp(datetime.now(UTC).timestamp() - seconds, UTC)
        return EventRow(when.strftime("%Y-%m-%dT%H:%M:%SZ"), kind, reason, message, count)

    chat_events = [
        said("Normal", "ScaledUp", "2 to 3 replicas: WaitingRequests is 9, target 4.", 74),
        said("Warning", "ReplicaUnreachable", "pod-127.0.0.4 does not answer on node-3.", 190, 2),
        said("Normal", "ReplicaRecovered", "pod-127.0.0.4 answers again.", 176),
    ]
    scaling = {
        "metric": "WaitingRequests", "value": "3.2", "target": "4",
        "message": "No change: within the tolerance", "lastScaleTime": chat_events[0].time,
    }  # fmt: skip
    bounds = {"minReplicas": 1, "maxReplicas": 8}
    chat = picture(
        "chat", condition("Ready", "True", "AllReplicasReady", "3 replicas are ready.", 70),
        condition("Serving", "True", "ReplicasReady", "3 replicas answer.", 86_000),
        condition("Degraded", "False", "AsWanted", "", 176),
        condition("ScalingActive", "True", "MetricsAvailable", "Sizes follow WaitingRequests.", 80_000),
        events=chat_events, pods=[pod(f"pod-127.0.0.{n}", f"127.0.0.{n}", f"node-{n - 1}") for n in (2, 3, 4)],
        spec={"autoscaling": bounds, "model": {"uri": "hf://Qwen/Qwen3-8B", "name": "chat"}},
        desiredReplicas=3, replicas=3, readyReplicas=3, autoscaling=scaling,
    )  # fmt: skip
    code = picture(
        "code", condition("Serving", "True"),
        condition("Degraded", "True", "ReplicaLagging",
                  "pod-127.0.0.6 on node-5: its slowest rank has not moved for 4.1 s. Requests go to the others."),
        spec={"model": {"uri": "pvc://models/code-32b", "name": "code"}},
        desiredReplicas=2, replicas=2, readyReplicas=2,
    )  # fmt: skip
    embed = picture(
        "vision",
        condition("Serving", "False", "NoCapacity", "0/6 nodes are available: 6 Insufficient nvidia.com/gpu."),
        spec={"model": {"uri": "oci://registry.example/vision:2", "name": "vision"}}, desiredReplicas=1, replicas=1,
    )  # fmt: skip
    night = picture(
        "night", condition("Serving", "False", "AtZero", "It is at zero and wakes with the first request."),
        spec={"model": {"uri": "s3://models/night", "name": "night"}}, desiredReplicas=0, replicas=0,
    )  # fmt: skip
    return overview(chat, code, embed, night)


async def test_every_situation_is_told_in_words_that_can_be_read_in_light_and_dark_wide_and_narrow(
    shown: PageWorld, page: Page
) -> None:
    chats = await served(shown, "chat", replicas=3)
    codes = await served(shown, "code", replicas=2)
    for name in ("vision", "night"):
        await shown.world.route(name)
        await shown.world.endpoints(name, [])
    for one, running, used in zip([*chats, *codes], (21, 17, 24, 6, 0), (0.61, 0.55, 0.72, 0.3, 0.0), strict=True):
        one.health |= {"running": running, "kv_cache_usage": used}
    codes[1].health |= {"beat_age": 4.1}
    for one in (*chats, *codes):
        one.answer = slowly(one)
    shown.ear.overview = many()
    busy = asyncio.create_task(load(shown))
    try:
        await page.size(1280, 900, 1.5 if PICTURES else 1.0)
        await give_key(page, shown)
        await page.until("document.querySelectorAll('article').length", 4)
        badges = {
            "chat": "Serving",
            "code": "Degraded: ReplicaLagging",
            "vision": "Not serving: NoCapacity",
            "night": "At zero",
        }
        for name, words in badges.items():
            named = f"a => a.querySelector('h2').textContent.endsWith('{name}')"
            of = f"[...document.querySelectorAll('article')].find({named})"
            await page.until(f"{of}.querySelector('.badge').textContent", words)
        await page.look("document.querySelector('summary').click()")
        await page.until_text("ReplicaUnreachable", CARD)
        await asyncio.sleep(75 if PICTURES else 0.2)  # for lines worth looking at
        await page.look("document.activeElement.blur()")
        for scheme, (width, height) in itertools.product(("light", "dark"), ((1280, 900), (390, 800))):
            await page.colours(scheme)
            await page.size(width, height, 1.5 if PICTURES else 1.0)
            assert await page.look(CONTRAST) == "", f"{scheme}, {width} wide"
            wide = await page.look("document.documentElement.scrollWidth")
            assert wide <= width, "nothing sticks out"
            if PICTURES:
                await page.picture(Path(PICTURES) / f"ui-{scheme}{'' if width > 500 else '-narrow'}.png")
    finally:
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)


def slowly(one: Replica) -> Answer:
    """Answers after a second or so."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.4 + 1.2 * random.random() ** 3)
        return web.json_response(one.unary("chat"))

    return answer


async def load(shown: PageWorld) -> None:
    """Requests that come and go."""

    async def ask(model: str) -> None:
        await shown.world.ask(model=model, messages=[])

    tasks: set[asyncio.Task[None]] = set()
    for number in itertools.count():
        model = "code" if number % 4 == 3 else "chat"
        tasks.add(asyncio.create_task(ask(model)))
        tasks = {task for task in tasks if not task.done()}
        await asyncio.sleep(0.05 + 0.04 * ((number // 60) % 3))
