"""List and watch, for as long as the process lives.

Knows the Kubernetes API's watch protocol: resource versions, bookmarks, expiry, silence. Must not know what the
objects mean; whoever stores them does. Losing the API server changes nothing in the stores.
"""

import asyncio
import logging
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import aiohttp
import msgspec
from kubernetes.aio import client, config

_LIST_SECONDS: Final = 15.0
_MOST_SLACK_SECONDS: Final = 5.0
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=5.0)  # the totals are set where they are known
_STEADY_SECONDS: Final = 5.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 15.0

_log = logging.getLogger(__name__)


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """As much of ObjectMeta as the gateway reads."""

    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None


class Watched(Protocol):
    """An object with metadata."""

    @property
    def metadata(self) -> Meta: ...


T = TypeVar("T", bound=Watched)
TIn = TypeVar("TIn", bound=Watched, contravariant=True)


class Store(Protocol[TIn]):
    """Takes what a watch learns."""

    def replace(self, objects: Sequence[TIn]) -> None: ...
    def upsert(self, item: TIn) -> None: ...
    def remove(self, item: TIn) -> None: ...


class _List(msgspec.Struct, Generic[T]):
    metadata: Meta
    items: list[T] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Bookmark(msgspec.Struct):
    metadata: Meta


class _Status(msgspec.Struct):
    code: int = 0
    reason: str = ""


class KubeError(Exception):
    """The API server answered with an error. 410 means that the resource version is too old to go on from."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Generic[T]):
    """What to list and watch: a collection's path, its selectors, and the type of its items."""

    name: str
    path: str
    item: type[T]
    label_selector: str = ""
    field_selector: str = ""


async def open_client() -> client.ApiClient:
    """A client by the pod's service account, or by the kubeconfig outside a cluster. Its token renews itself."""
    configuration = client.Configuration()
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=configuration)
    configuration.retries = False  # the reflector's own backoff is the only one
    return client.ApiClient(configuration)


def pause(failures: int, draw: float) -> float:
    """Seconds before try number `failures`: exponential, capped, full jitter by `draw` in [0, 1)."""
    return float(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(failures, 16)) * (0.5 + draw / 2))


class Reflector(Generic[T]):
    """Keeps a Store equal to a collection. `run` never returns and never raises but for cancellation.

    `synced`: the collection has been listed once. `age()`: seconds since the API server last said anything.
    """

    def __init__(self, api: client.ApiClient, source: Source[T], store: Store[T], watch_seconds: float) -> None:
        self.source = source
        self.synced = False
        self._api = api
        self._store = store
        self._watch_seconds = watch_seconds
        self._heard = time.monotonic()
        self._complaint = ""
        self._list_decoder = msgspec.json.Decoder(_List[source.item])  # type: ignore[name-defined]  # a runtime type
        self._item_decoder = msgspec.json.Decoder(source.item)
        self._event_decoder = msgspec.json.Decoder(_Event)

    def age(self) -> float:
        """Seconds since the last sign of the API server."""
        return time.monotonic() - self._heard

    async def run(self) -> None:
        """List, watch, and begin again, for ever."""
        version = ""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                version = version or await self._list()
                version = await self._watch(version)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._complain(error)  # the line broke: the version still stands
            except Exception as error:  # whatever was said, the gateway lives and starts over from a list
                version = ""
                self._complain(error)
            steady = time.monotonic() - began >= min(_STEADY_SECONDS, self._watch_seconds / 2)
            failures = 0 if steady else failures + 1
            await asyncio.sleep(pause(failures, random.random()))

    async def _list(self) -> str:
        async with asyncio.timeout(_LIST_SECONDS), await self._get() as response:
            self._check(response)
            listed = self._list_decoder.decode(await response.read())
        self._store.replace(listed.items or [])
        self.synced = True
        self._hear()
        return listed.metadata.resource_version

    async def _watch(self, version: str) -> str:
        seconds = max(1, round(self._watch_seconds))
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        # A line that went dead is never closed by the other side: the server's own limit, plus slack, is ours.
        slack = min(_MOST_SLACK_SECONDS, seconds / 2)
        async with asyncio.timeout(seconds + slack), await self._get(query) as response:
            self._check(response)
            while line := await response.content.readline():
                version = self._take(line)
                self._hear()
        return version

    def _take(self, line: bytes) -> str:
        event = self._event_decoder.decode(line)
        if event.type == "ERROR":
            status = msgspec.json.decode(event.object, type=_Status)
            raise KubeError(status.code, status.reason)
        if event.type == "BOOKMARK":
            return msgspec.json.decode(event.object, type=_Bookmark).metadata.resource_version
        item = self._item_decoder.decode(event.object)
        if event.type == "DELETED":
            self._store.remove(item)
        else:
            self._store.upsert(item)
        return item.metadata.resource_version

    async def _get(self, query: dict[str, str] | None = None) -> aiohttp.ClientResponse:
        selectors = {"labelSelector": self.source.label_selector, "fieldSelector": self.source.field_selector}
        params = list({name: value for name, value in (selectors | (query or {})).items() if value}.items())
        method, url, headers, *_ = await self._api.param_serialize(
            "GET",
            self.source.path,
            query_params=params,
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        answer = await self._api.call_api(method, url, headers, _request_timeout=_TIMEOUT)
        response: aiohttp.ClientResponse = answer.response
        return response

    def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status != 200:
            raise KubeError(response.status, response.reason or "")

    def _hear(self) -> None:
        self._heard = time.monotonic()
        if self._complaint:
            _log.info("watch of %s goes on", self.source.name)
            self._complaint = ""

    def _complain(self, error: Exception) -> None:
        # An outage is one line when it begins, not one a try.
        complaint = f"{type(error).__name__}: {error}"
        if complaint != self._complaint:
            _log.warning("watch of %s: %s; what is known stays in force", self.source.name, complaint)
            self._complaint = complaint
