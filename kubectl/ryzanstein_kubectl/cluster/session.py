"""The way to the API server with a user's kubeconfig: the operator's client, and besides it text and streams.

Knows HTTP, contexts and credentials; knows no resource.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio import client, config

from ryzanstein_kubectl.model.errors import CommandError
from ryzanstein_operator.cluster.client import ApiError, Cluster

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
STREAM_LINE_BYTES: Final = 16 * 2**20
"""The longest line of a watch or a log that is taken; more than any object or log line that a kubelet keeps whole."""


@dataclass(frozen=True)
class Access:
    """Which cluster and which namespace, as the flags say; empty means what the kubeconfig says."""

    kubeconfig: str = ""
    context: str = ""
    namespace: str = ""


class Session(Cluster):
    """A connection with a user's rights. `namespace` is the one that is meant where none is named. Close it."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        super().__init__(api)
        self.namespace = namespace

    @classmethod
    async def open(cls, access: Access) -> Self:
        """Reads the kubeconfig as kubectl does, else the pod's own service account. Raises CommandError."""
        configuration = client.Configuration()
        paths = access.kubeconfig or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
        try:
            if _exist(paths):
                namespace = await _load(paths, access.context, configuration)
            elif SERVICE_ACCOUNT.exists() and not access.kubeconfig:
                config.load_incluster_config(client_configuration=configuration)
                namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
            else:
                raise CommandError(f"There is no kubeconfig at {paths}; name one with --kubeconfig or KUBECONFIG.")
        except (config.ConfigException, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CommandError(f"The kubeconfig {paths} cannot be used: {' '.join(str(error).split())}") from error
        configuration.retries = None
        return cls(client.ApiClient(configuration), access.namespace or namespace or "default")

    async def text(self, path: str, query: Mapping[str, str] | None = None, *, seconds: float = 10.0) -> str:
        """One GET of something that is no object: a log, a page behind a proxy. Raises ApiError."""
        async with asyncio.timeout(seconds + 1.0):
            response = await self._get(path, query or {}, aiohttp.ClientTimeout(total=seconds))
            try:
                return (await response.read()).decode(errors="replace")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise ApiError(0, f"The answer broke off: {error or type(error).__name__}") from error

    async def lines(
        self, path: str, query: Mapping[str, str], *, idle_seconds: float | None = None
    ) -> AsyncIterator[str]:
        """The lines of an answer that may go on for ever: a watch, a log that is followed. Raises ApiError.

        idle_seconds: a longer silence means that the connection is dead; None where nothing may be said for ever.
        """
        limits = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=idle_seconds)
        response = await self._get(path, query, limits)
        rest = b""
        try:
            async for chunk in response.content.iter_any():
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield line.decode(errors="replace")
                if len(rest) > STREAM_LINE_BYTES:
                    raise ApiError(0, f"A line of more than {STREAM_LINE_BYTES} bytes came.")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, f"The stream broke off: {error or type(error).__name__}") from error
        finally:
            response.close()
        if rest:
            yield rest.decode(errors="replace")

    async def _get(self, path: str, query: Mapping[str, str], timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        prepared = await self._api.param_serialize(
            "GET",
            path,
            query_params=list(query.items()),
            header_params={"Accept": "*/*"},
            auth_settings=["BearerToken"],
        )
        try:
            answer = await self._api.call_api(*prepared, _request_timeout=timeout)
            if answer.status == 200:
                response: aiohttp.ClientResponse = answer.response
                return response
            text = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, f"The API server cannot be reached: {error or type(error).__name__}") from error
        raise refusal(answer.status, text, answer.reason)

    async def websocket(self, path: str, query: Mapping[str, str], protocol: str) -> aiohttp.ClientWebSocketResponse:
        """A WebSocket to a subresource. Close it. Raises ApiError."""
        method, url, headers, *_ = await self._api.param_serialize(
            "GET", path, query_params=list(query.items()), header_params={}, auth_settings=["BearerToken"]
        )
        rest = self._api.rest_client
        if rest.pool_manager is None:
            rest.pool_manager = rest._create_pool_manager()
        try:
            socket: aiohttp.ClientWebSocketResponse = await rest.pool_manager.ws_connect(
                url,
                method=method,
                headers=headers,
                protocols=(protocol,),
                proxy=rest.proxy,
                max_msg_size=0,
                server_hostname=self._api.configuration.tls_server_name or None,
            )
        except aiohttp.WSServerHandshakeError as error:
            raise ApiError(error.status, str(error.message)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, f"The API server cannot be reached: {error or type(error).__name__}") from error
        return socket


@contextlib.asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """Several calls at one time, of which none goes on when one has failed: it would outlive its connection. Raises the
    first error as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def refusal(status: int, text: bytes, reason: str | None) -> ApiError:
    """The ApiError of an answer that is none, with the API server's own sentence where it gave one."""
    try:
        message: Any = json.loads(text).get("message")
    except (ValueError, AttributeError):
        message = " ".join(text.decode(errors="replace").split())
    return ApiError(status, str(message or reason or "no reason given")[:1000])


def _exist(paths: str) -> bool:
    return any(Path(path).expanduser().exists() for path in paths.split(os.pathsep) if path)


async def _load(paths: str, context: str, configuration: client.Configuration) -> str:
    """Fill the configuration; gives the context's namespace."""
    loader = await config.load_kube_config(paths, context or None, configuration, persist_config=False)
    return str(loader.current_context["context"].get("namespace") or "")
