"""A headless Chromium, spoken to by its DevTools protocol: opens a page, looks, types, takes pictures.

Debian's package `chromium` (python3 e2e/cluster tools chromium installs it), or another Chromium on PATH.
"""

import asyncio
import base64
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

START_SECONDS = 120.0
WAIT_SECONDS = 60.0
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    *("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--remote-debugging-port=0", "--hide-scrollbars", "--font-render-hinting=none"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # it asks nobody but us
)


def program() -> str:
    """The browser's path."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    assert found, "no Chromium here: `python3 e2e/cluster tools chromium` installs Debian's"
    return found


@dataclass
class Page:
    """One tab."""

    _socket: ClientConnection
    _session: str = ""
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _waiting: dict[int, "asyncio.Future[dict[str, Any]]"] = field(default_factory=dict)
    console: list[str] = field(default_factory=list)
    """Errors and warnings that the page caused, violations of its content policy included."""
    requests: list[str] = field(default_factory=list)
    """Every address that was asked for."""

    async def open(self, url: str) -> None:
        """Load a page."""
        await self.call("Page.navigate", url=url)

    async def look(self, expression: str) -> Any:
        """The value of an expression of JavaScript, a promise's included."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, (expression, answer["exceptionDetails"])
        return answer["result"].get("value")

    async def until(self, expression: str, wanted: Any = True, seconds: float = WAIT_SECONDS) -> None:
        """Wait until an expression has a value."""
        deadline, seen = asyncio.get_running_loop().time() + seconds, None
        while (seen := await self._glimpse(expression)) != wanted:
            assert asyncio.get_running_loop().time() < deadline, (expression, "is", seen, "not", wanted, self.console)
            await asyncio.sleep(0.05)

    async def text(self, selector: str = "body") -> str:
        """What can be read there."""
        return str(await self.look(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    async def until_text(self, words: str, selector: str = "body", seconds: float = WAIT_SECONDS) -> None:
        """Wait until words can be read somewhere."""
        inside = f"(document.querySelector({json.dumps(selector)})?.innerText ?? '').includes({json.dumps(words)})"
        await self.until(inside, True, seconds)

    async def type(self, text: str) -> None:
        """As from the keyboard, into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        """One key: Enter, Tab or Space."""
        code, words = {"Enter": (13, "\r"), "Tab": (9, ""), "Space": (32, " ")}[key]
        named = {"key": words.strip() or key if key != "Space" else " ", "code": key, "windowsVirtualKeyCode": code}
        if key == "Enter":
            named["key"] = "Enter"
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=words, **named)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    async def colours(self, scheme: str) -> None:
        """What the user prefers: light or dark."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def size(self, width: int, height: int, scale: float = 1.0) -> None:
        """The window's, in CSS pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=False,
        )  # fmt: skip

    async def picture(self, path: Path) -> None:
        """A PNG of all of the page."""
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await self._socket.send(json.dumps(message))
            answer = await asyncio.wait_for(future, WAIT_SECONDS)
        finally:
            del self._waiting[number]
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    async def _glimpse(self, expression: str) -> Any:
        with suppress(AssertionError):  # the page is just being loaded
            return await self.look(expression)
        return None

    async def _read(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            waiting = self._waiting.get(message.get("id", -1))
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            self._note(message.get("method", ""), message.get("params", {}))

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.console.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.console.append(json.dumps(params["exceptionDetails"]))


@asynccontextmanager
async def browser_page(tmp_path: Path) -> AsyncIterator[Page]:
    """A new browser with one tab, gone afterwards."""
    profile = tmp_path / "chromium"
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        *(program(), *_FLAGS, *sandbox, f"--user-data-dir={profile}", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    try:
        address = await _address(profile / "DevToolsActivePort", process)
        # No pings: who waits says for how long, and a browser on a busy machine may be late with its pongs.
        async with connect(
            address, max_size=None, proxy=None, compression=None, open_timeout=START_SECONDS, ping_interval=None
        ) as socket:
            page = Page(socket)
            reader = asyncio.create_task(page._read())
            try:
                target = await page.call("Target.createTarget", url="about:blank")
                attached = await page.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
                page._session = attached["sessionId"]
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.call(f"{domain}.enable")
                yield page
            finally:
                reader.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _address(file: Path, process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(START_SECONDS):
        while True:
            assert process.returncode is None, f"the browser ended with {process.returncode}"
            with suppress(FileNotFoundError, ValueError):
                port, path = (await asyncio.to_thread(file.read_text)).split("\n")[:2]
                if path:  # it is written whole
                    return f"ws://127.0.0.1:{int(port)}{path}"
            await asyncio.sleep(0.05)
