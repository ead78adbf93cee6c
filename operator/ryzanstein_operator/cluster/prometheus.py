"""Prometheus' HTTP API: a query in PromQL in, numbers with their labels or one sentence out. Knows no metric of ours.

Every call has a deadline, and no answer is held whole beyond a bound: what answers need not be Prometheus.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from ryzanstein_operator.settings import Metrics as Access

QUERY_SECONDS: Final = 2.0
MAX_BYTES: Final = 256 * 1024
MAX_SERIES: Final = 16
MAX_TOKEN_BYTES: Final = 16 * 1024
REST_SECONDS: Final = 2.0
"""After Prometheus could not be reached, so long nobody else waits for it in vain."""
_WORDS: Final = 300


class QueryError(Exception):
    """No answer to a query, with one sentence for the user. why: the same in a word, for the metrics."""

    def __init__(self, why: str, sentence: str) -> None:
        super().__init__(sentence)
        self.why = why


@dataclass(frozen=True)
class Point:
    """One series of an instant query's result."""

    labels: Mapping[str, str]
    value: float


class Prometheus:
    """One Prometheus. Use within one event loop; close it."""

    def __init__(self, access: Access, clock: Callable[[], float] = time.monotonic) -> None:
        self._access, self._clock = access, clock
        self._session: aiohttp.ClientSession | None = None
        self._tls: tuple[float, ssl.SSLContext] | None = None
        self._away: tuple[float, QueryError] | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def query(self, text: str, *, foreign: bool = False) -> tuple[Point, ...]:
        """The series of an instant query, MAX_SERIES at most. Raises QueryError.

        foreign: a user wrote it. That it takes long says nothing of Prometheus: the queries of others go on.
        """
        if self._away and self._clock() < self._away[0]:
            raise QueryError(self._away[1].why, str(self._away[1]))
        try:
            answer = await self._post({"query": text, "timeout": f"{QUERY_SECONDS:.0f}s"})
        except QueryError as error:
            if error.why == "unreachable" or (error.why == "timeout" and not foreign):
                self._away = (self._clock() + REST_SECONDS, error)
            raise
        self._away = None
        return _points(answer)

    async def _post(self, form: Mapping[str, str]) -> Any:
        url = f"{self._access.url}/api/v1/query"
        try:
            tls = self._context()
            headers = {"Accept": "application/json", "Accept-Encoding": "identity"} | self._authorization()
        except (OSError, ssl.SSLError) as error:
            raise QueryError("credentials", f"a file of Prometheus' credentials cannot be read: {error}") from error
        try:
            async with (
                asyncio.timeout(QUERY_SECONDS),
                self._open().post(url, data=form, headers=headers, ssl=tls, allow_redirects=False) as response,
            ):
                return _decoded(response.status, await _bounded(response))
        except TimeoutError:
            raise QueryError("timeout", f"{self._access.url} has not answered within {QUERY_SECONDS:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise QueryError("unreachable", f"{self._access.url} cannot be reached: {_brief(str(error))}") from error
        except ValueError as error:
            raise QueryError("unreachable", f"{self._access.url} cannot be asked: {_brief(str(error))}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Nothing is unpacked: none was asked to pack it, and what a small body unpacks to has no bound.
            self._session = aiohttp.ClientSession(trust_env=False, auto_decompress=False)
        return self._session

    def _context(self) -> ssl.SSLContext | bool:
        """Read anew when the file has changed: certificates are rotated under a running operator."""
        path = self._access.ca_file
        if path is None:
            return True
        changed = path.stat().st_mtime
        if self._tls is None or self._tls[0] != changed:
            self._tls = (changed, ssl.create_default_context(cafile=str(path)))
        return self._tls[1]

    def _authorization(self) -> dict[str, str]:
        token = _token(self._access.token_file) if self._access.token_file else ""
        return {"Authorization": f"Bearer {token}"} if token else {}


def _token(path: Path) -> str:
    """As it is now: a service account's is renewed every hour."""
    with path.open("rb") as file:
        return file.read(MAX_TOKEN_BYTES).decode("ascii", "replace").strip()


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BYTES:
            raise QueryError("large", f"the answer is larger than {MAX_BYTES // 1024} KiB; the query gives too much")
    return bytes(body)


def _decoded(status: int, body: bytes) -> Any:
    """The `data` of an answer."""
    try:
        answer: Any = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    said = answer if isinstance(answer, dict) else {}
    words = f": {_brief(str(said['error']))}" if said.get("error") else ""
    if status in (401, 403):
        raise QueryError("forbidden", f"Prometheus refuses the operator's credentials (status {status}){words}")
    if 400 <= status < 500:
        raise QueryError("refused", f"Prometheus refuses the query (status {status}){words}")
    if status != 200:
        raise QueryError("failed", f"Prometheus cannot answer (status {status}){words}")
    if said.get("status") != "success":
        raise QueryError("garbage", f"the answer is not one of Prometheus' API{words}")
    return said.get("data")


def _points(data: Any) -> tuple[Point, ...]:
    try:
        kind, result = data["resultType"], data["result"]
        if kind == "scalar":
            return (Point({}, float(result[1])),)
        if kind != "vector":
            raise QueryError("kind", f"the query gives a {_brief(str(kind))} and not a number for one instant")
        if len(result) > MAX_SERIES:
            raise QueryError("several", f"the query gives {len(result)} series and not one; sum or select them")
        return tuple(Point(_labels(series["metric"]), float(series["value"][1])) for series in result)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        raise QueryError("garbage", "the answer is not one of Prometheus' API") from None


def _labels(metric: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in metric.items()}


def _brief(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _WORDS else f"{words[:_WORDS]} ..."
