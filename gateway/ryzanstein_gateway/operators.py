"""Where the operator's pods are, and how they are told something: an authenticated POST to each address.

The name is of a headless Service, so it stands for every pod: the one that leads and those that stand by. Knows the
address and the key that both have mounted; knows nothing of what is told.
"""

import asyncio
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

CALL_SECONDS: Final = 2.0
_MAX_KEY_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class Found:
    """The pods at one moment, and the headers that they ask for."""

    urls: tuple[URL, ...]
    headers: dict[str, str]


class Operators:
    """Without a URL or a key file there are none, and nobody may be told anything."""

    def __init__(self, url: str, key_file: Path | None) -> None:
        self._url = URL(url) if url and key_file else None
        self._key_file = key_file

    def __bool__(self) -> bool:
        return self._url is not None

    async def find(self) -> Found:
        """Look the name up, and read the key, anew each time: a Secret may be exchanged. Raises OSError."""
        assert self._url is not None
        assert self._key_file is not None
        key = await asyncio.to_thread(_read_key, self._key_file)
        port = self._url.port or 80
        async with asyncio.timeout(CALL_SECONDS):
            loop = asyncio.get_running_loop()
            try:
                entries = await loop.getaddrinfo(self._url.host, port, type=socket.SOCK_STREAM)
            except UnicodeError:
                raise OSError(f"{self._url.host} is no name that can be looked up") from None
        hosts = sorted({str(entry[4][0]) for entry in entries})
        urls = tuple(URL.build(scheme="http", host=host, port=port) for host in hosts)
        return Found(urls, {"authorization": f"Bearer {key}", "content-type": "application/json"})

    async def tell_all(self, path: str, body: bytes) -> list[int | str]:
        """Tell every operator that there is: each one's status, or why there is none. Raises nothing."""
        try:
            found = await self.find()
        except OSError as error:  # a TimeoutError is one
            return [f"{type(error).__name__}: {error}"]
        async with open_session() as session:
            posts = [post(session, url.with_path(path), found.headers, body) for url in found.urls]
            return list(await asyncio.gather(*posts))


def open_session() -> aiohttp.ClientSession:
    """A client for calls to operators."""
    timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
    return aiohttp.ClientSession(timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar())


async def post(session: aiohttp.ClientSession, url: URL, headers: dict[str, str], body: bytes) -> int | str:
    """One operator's status, or words for there being none."""
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            return answer.status
    except (aiohttp.ClientError, OSError):
        return f"{url.host} cannot be reached"


def _read_key(path: Path) -> str:
    """The shared key. Raises OSError; one that cannot stand in a header is none."""
    with path.open("rb") as file:
        key = file.read(_MAX_KEY_BYTES).decode("ascii", "replace").strip()
    if not key or not key.isprintable() or not key.isascii():
        raise OSError(f"{path} holds no key")
    return key
